//! `gantry`: argument → settings → command → printer.
//!
//! Two modes come first, because they must run before the process has a second thread: the launcher of containers, and
//! the hook that git runs.

mod archive;
mod args;
mod backup;
mod check;
mod check_data;
mod check_servers;
mod coded;
mod commands;
mod damage;
mod down;
mod exit;
mod handover;
mod help;
mod join;
mod machine;
mod machine_add;
mod membership;
mod migrate;
mod migrate_jobs;
mod new_file;
mod printer;
mod remote;
mod restore;
mod restore_volumes;
mod role_volumes;
mod server_files;
mod server_folder;
mod server_init;
mod server_process;
mod server_tokens;
mod server_user;
mod service_arguments;
mod services;
mod settings;
mod snapshot;
mod store_copy;
mod supervisor;
mod up;
mod upgrade;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The mode of folders that containers see must not depend on the caller's umask. Secret files set their own mode.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(code) = gantry_sandbox::launcher_main() {
        return code;
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == "git-hook") {
        return gantry_git::hook::main();
    }
    if services::is_orphan() {
        return ExitCode::FAILURE;
    }
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    if let Err(error) = gantry_linux::names::use_files_and_dns() {
        eprintln!("gantry: cannot start: {error} [{}]", gantry_error_codes::ErrorCode::Internal);
        return ExitCode::FAILURE;
    }
    let args = match settings::parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("gantry: {error} [{}]", gantry_error_codes::ErrorCode::InvalidSettings);
            return ExitCode::from(exit::USAGE);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gantry: cannot start: {error} [{}]", gantry_error_codes::ErrorCode::Internal);
            return ExitCode::FAILURE;
        }
    };
    let remote = args.remote.clone();
    let code = exit::code(runtime.block_on(commands::run(args)), &remote);
    // A pending read of standard input cannot be cancelled, so do not wait for its thread.
    runtime.shutdown_background();
    code
}
