//! Programs that run beside this one: where they are found, and that they end with it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

/// The shell becomes the program; what it leaves behind waits for the end of the pipe from the parent. A line on the pipe
/// means that the program has ended already; its end without one means that the parent has.
const GUARDED: &str = r#"
exec 3<&0 </dev/null
(
    read -r line <&3 && exit
    kill -TERM $$
    for second in 1 2 3 4 5; do
        kill -0 $$ || exit
        sleep 1
    done
    kill -KILL $$
) >/dev/null 2>&1 &
exec "$@" 3<&-
"#;

/// The files called `name` in the usual places: `.tools/bin` in a folder above this program, then `PATH`.
///
/// The working directory is no such place: who starts this inside a foreign folder must not run its programs.
pub fn find_program_files(name: &str) -> Vec<PathBuf> {
    let exe = env::current_exe().unwrap_or_default();
    let above = exe.ancestors().skip(1).take(5).map(|folder| folder.join(".tools/bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = above.chain(env::split_paths(&path));
    folders.map(|folder| folder.join(name)).filter(|file| file.is_file()).collect()
}

/// A command that becomes `program`, which ends with this process, whatever ends that: by SIGTERM, and 5 s later by SIGKILL.
///
/// It is killed when it is dropped. Its standard input is the pipe whose end stops it: a caller that takes that out of the child
/// keeps it, and writes a line to it once the program has ended, so that no process id is signalled that may have come back.
pub fn guarded_command(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", GUARDED, "sh"])
        .arg(program)
        .stdin(Stdio::piped())
        // Ctrl-C in the terminal is for the parent alone, which stops the program last.
        .process_group(0)
        .kill_on_drop(true);
    command
}
