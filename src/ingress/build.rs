//! Puts what the pages embed where they embed it from: the player library, and the library page's script, bundled from TypeScript.
//! `make setup` installs the packages that both need.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

const PLAYER: &str = "watch/node_modules/hls.js/dist";
const FILES: [&str; 2] = ["hls.min.mjs", "hls.worker.js"];

const LIBRARY: &str = "library";
const BUNDLER: &str = "node_modules/.bin/esbuild";

fn main() {
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    embed_player(&out);
    bundle_library(&out);
}

fn embed_player(out: &Path) {
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

fn bundle_library(out: &Path) {
    for source in
        ["src", "tsconfig.json", "package-lock.json", BUNDLER, "../watch/server.js", "../watch/wallet.js"]
    {
        println!("cargo::rerun-if-changed={LIBRARY}/{source}");
    }
    if !Path::new(LIBRARY).join(BUNDLER).exists() {
        println!("cargo::error={LIBRARY}/{BUNDLER} is missing: run `make setup` first");
        return;
    }
    let bundled = Command::new(BUNDLER)
        .current_dir(LIBRARY)
        .args(["src/main.ts", "--bundle", "--minify", "--format=esm", "--target=es2022", "--charset=utf8"])
        .args(["--legal-comments=eof", "--log-level=warning"])
        .arg(format!("--outfile={}", out.join("library.js").display()))
        .output();
    match bundled {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
            println!("cargo::error=the library page could not be bundled; `make setup` renews its packages");
        }
        Err(error) => println!("cargo::error={LIBRARY}/{BUNDLER} does not run: {error}; run `make setup`"),
    }
}
