//! Puts the player library, installed by `make setup`, where the watch page embeds it from.

use std::path::PathBuf;

const PLAYER: &str = "watch/node_modules/hls.js/dist";
const FILES: [&str; 2] = ["hls.min.mjs", "hls.worker.js"];

fn main() {
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    for file in FILES {
        let from = format!("{PLAYER}/{file}");
        println!("cargo::rerun-if-changed={from}");
        let source_map_dropped =
            std::fs::read_to_string(&from).map(|text| without_source_map(&text).to_owned());
        match source_map_dropped.and_then(|text| std::fs::write(out.join(file), text)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("cargo::error={from} is missing: run `make setup` first");
            }
            Err(error) => println!("cargo::error={from} cannot be embedded: {error}"),
        }
    }
}

/// The map is not embedded; a browser's developer tools would ask for it and log a 404.
fn without_source_map(text: &str) -> &str {
    text.rfind("\n//# sourceMappingURL=").and_then(|at| text.get(..=at)).unwrap_or(text)
}
