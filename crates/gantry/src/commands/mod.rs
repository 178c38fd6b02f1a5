//! The commands, one module for each group.

mod apps;
mod bases;
mod codes;
mod config;
mod deploys;
mod docs;
mod explain;
mod images;
pub(crate) mod jobs;
mod join_tokens;
mod locks;
mod login;
mod logs;
mod machines;
mod man;
mod policy;
mod pulls;
mod schedules;
mod session;
mod stacks;
mod system;
mod volumes;

use gantry_api::types::{ChangeTraffic, DeploySource, ImageChange};

use deploys::DeployRequest;

use crate::args::{
    Args, Cluster, Command, ImageSnapshot, JoinTokenCommand, Maintenance, ServerArgs, ServerCommand, Store,
};
use crate::coded::require;
use crate::exit::{DONE, Exit};
use crate::printer::out;
use crate::{
    backup, check, down, join, migrate, migrate_jobs, remote, restore, server_init, services, snapshot, up, upgrade,
};

/// Runs the command.
pub(crate) async fn run(args: Args) -> anyhow::Result<Exit> {
    let json = args.remote.json;
    let client = || remote::client(&args.remote);
    match args.command {
        Command::Up(machine) => up::run(&machine).await,
        Command::Down(machine) => down::run(&machine).await,
        Command::Server(ServerArgs { command: Some(ServerCommand::Init { machine }), .. }) => {
            server_init::run(&machine).await
        }
        Command::Server(ServerArgs { command: None, machine }) => services::server(&machine).await,
        Command::Join(arguments) => join::run(&arguments, json).await,
        Command::Login { url, ca_hash } => login::run(&url, &ca_hash, &args.remote).await,
        Command::Agent(machine) => services::agent(&machine).await,
        Command::Router(machine) => services::router(&machine).await,
        Command::Store(Store::Migrate { machine, to }) => migrate::run(&machine, &to).await,
        Command::Store(Store::MigrateJobs { machine, to }) => migrate_jobs::run(&machine, &to),
        Command::Store(Store::Check { machine }) => check::check(&machine).await,
        Command::Check { machine, repair } => check::check_everything(&machine, &args.remote, repair).await,
        Command::Backup { machine, volumes, file } => backup::backup(&machine, volumes, &file).await,
        Command::Restore { machine, skip_damaged, volumes, file } => {
            restore::restore(&machine, &file, skip_damaged, volumes).await
        }
        Command::Snapshot(ImageSnapshot::Save { machine, file }) => snapshot::save(&client()?, &machine, &file).await,
        Command::Snapshot(ImageSnapshot::Load { machine, file }) => snapshot::load(&machine, &file).await,
        Command::UpgradeCheck(machine) => upgrade::check(&machine),
        Command::Explain { code } => explain::run(code.as_deref(), json),
        Command::Docs { topic } => docs::run(topic.as_deref()),
        Command::Man { folder } => man::run(&folder),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut crate::help::command(), "gantry", &mut script);
            out!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(DONE)
        }
        Command::Status => system::status(&client()?, json).await,
        Command::Events { app } => system::events(&client()?, app, json).await,
        Command::Cluster(Cluster::JoinToken(JoinTokenCommand::Create { role, ttl })) => {
            join_tokens::create(&client()?, role, ttl, json).await
        }
        Command::Cluster(Cluster::Policy(command)) => policy::policy(&client()?, command, json).await,
        Command::Token(command) => system::token(&client()?, command, json).await,
        Command::App(command) => apps::run(&client()?, command, json).await,
        Command::Ps { app } => apps::ps(&client()?, app, json).await,
        Command::Scale { app, counts, wait } => apps::scale(&client()?, &app, counts, wait).await,
        Command::Pause { app } => apps::traffic(&client()?, &app, &ChangeTraffic::Pause).await,
        Command::Resume { app } => apps::traffic(&client()?, &app, &ChangeTraffic::Resume).await,
        Command::Maintenance(Maintenance::On { app, message }) => {
            apps::traffic(&client()?, &app, &ChangeTraffic::Maintenance { message: Some(message) }).await
        }
        Command::Maintenance(Maintenance::Off { app }) => {
            apps::traffic(&client()?, &app, &ChangeTraffic::Maintenance { message: None }).await
        }
        Command::Limit { app, rate, concurrent } => {
            apps::traffic(&client()?, &app, &ChangeTraffic::Limit { rate, concurrent }).await
        }
        Command::Why { app: Some(app), instance } => apps::why(&client()?, &app, instance, json).await,
        Command::Why { app: None, .. } => apps::why_all(&client()?, json).await,
        Command::Config(command) => config::run(&client()?, command, json).await,
        Command::Base(command) => bases::run(&client()?, command, json).await,
        Command::Image(command) => images::run(&client()?, command, json).await,
        Command::Stack(command) => stacks::run(&client()?, command, json).await,
        Command::Machines(command) => machines::run(&client()?, command, json).await,
        Command::Deploy { app, image, volumes, port, hold, planned, follow } => {
            let count = volumes.len();
            let settings = ImageChange { volumes: volumes.into_iter().collect(), port };
            require!(
                settings.volumes.len() == count,
                InvalidArguments,
                "a volume is named twice; give each --volume a name of its own"
            );
            let client = client()?;
            let source = match image {
                Some(reference) => Some(deploys::image_source(&client, &app, reference, settings).await?),
                None => None,
            };
            deploys::run(&client, &app, DeployRequest { source, hold, planned, follow }, json).await
        }
        Command::Releases { app } => deploys::releases(&client()?, &app, json).await,
        Command::Rollback { app, release, planned, follow } => {
            let source = Some(DeploySource::Rollback { to: release });
            deploys::run(&client()?, &app, DeployRequest { source, hold: false, planned, follow }, json).await
        }
        Command::Promote { app, follow } => deploys::promote(&client()?, &app, follow).await,
        Command::Abort { app } => deploys::abort(&client()?, &app).await,
        Command::Logs { app, follow, lines, since, role, grep } => {
            let selection = logs::LogSelection { follow, lines, since, role, grep };
            logs::run(&client()?, &app, &selection, json).await
        }
        Command::Exec { app, input, instance, command } => {
            session::exec(&client()?, &app, instance, command, input).await
        }
        Command::Run { app, input, volumes, command } => session::run(&client()?, &app, command, volumes, input).await,
        Command::Code(command) => codes::run(&client()?, command, json).await,
        Command::Job(command) => jobs::run(&client()?, command, json).await,
        Command::Schedule(command) => schedules::run(&client()?, command, json).await,
        Command::Lock(command) => locks::run(&args.remote, command, json).await,
        Command::Queue(command) => jobs::queue(&client()?, command, json).await,
        Command::Volume(command) => volumes::run(&client()?, command, json).await,
    }
}
