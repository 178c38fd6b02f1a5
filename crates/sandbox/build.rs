//! Builds `gantry-init` as a static binary, so that the one `gantry` binary can carry it.

use std::path::Path;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let (manifest, out, target) = (variable("CARGO_MANIFEST_DIR"), variable("OUT_DIR"), variable("TARGET"));
    let init = Path::new(&manifest).join("../init");
    println!("cargo:rerun-if-changed={}", init.join("src").display());
    println!("cargo:rerun-if-changed={}", init.join("Cargo.toml").display());
    // Init links the kernel calls.
    println!("cargo:rerun-if-changed={}", init.join("../linux/src").display());
    let folder = Path::new(&out).join("init");
    let status = Command::new(variable("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "gantry-init", "--target", &target])
        .args(["--config", "profile.release.opt-level=\"s\"", "--config", "profile.release.panic=\"abort\""])
        .args(["--config", "profile.release.strip=true", "--config", "profile.release.lto=\"fat\""])
        .arg("--manifest-path")
        .arg(init.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&folder)
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "gantry-init does not build as a static binary; Debian's libc6-dev has what it links");
    println!("cargo:rustc-env=GANTRY_INIT={}", folder.join(&target).join("release/gantry-init").display());
}
