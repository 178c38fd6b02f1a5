//! `gantry status`, `events`, `token`.

use gantry_api::Client;
use gantry_api::endpoints::{cluster, tokens};
use gantry_api::types::{CreateToken, SubjectKind, TokenScope};
use gantry_model::{AppName, Bytes};

use super::apps;
use crate::args::Token;
use crate::coded::fail;
use crate::exit::{DONE, Exit};
use crate::printer::{age, clock, json as print_json, or_dash, out, span, status, table, time_until};

pub(crate) async fn status(client: &Client, json: bool) -> anyhow::Result<Exit> {
    let status = client.fetch(&cluster::Status {}).await?;
    if json {
        print_json(&status)?;
        return Ok(DONE);
    }
    out!("gantry {}, store {}", status.version, status.store);
    if status.machines.is_empty() {
        out!("machine  none has reported yet; check the output of `gantry up` for errors of the agent");
    }
    for (machine, seen) in &status.machines {
        let offset = seen.clock_offset_millis.map(|by| {
            let direction = if by < 0 { "behind" } else { "ahead of" };
            format!(", its clock is {} {direction} the server's", span(by.unsigned_abs()))
        });
        out!("machine  {machine}: heard {} ago{}", span(seen.silent_millis), offset.unwrap_or_default());
    }
    for (machine, seen) in &status.machines {
        for fault in &seen.network {
            let since = fault.repaired.map(|at| format!(", last {} ago", age(at))).unwrap_or_default();
            out!("network  {machine}: {}{since}", fault.text);
        }
    }
    for (router, seen) in &status.routers {
        let (machine, silent) = (&router.machine, span(seen.silent_millis));
        out!("router   {machine}: table {} of {}, heard {silent} ago", seen.routes, status.routes);
    }
    for server in &status.servers {
        let part = match (server.leads, server.lives) {
            (true, _) => "leads",
            (false, true) => "follows",
            (false, false) => "is away",
        };
        out!("server   {} at {}: {part}", server.name, server.address);
    }
    for warning in &status.warnings {
        out!("warning  {}", warning.text);
    }
    let space: Vec<String> = status.space.iter().map(|(kind, bytes)| format!("{kind} {}", Bytes(*bytes))).collect();
    out!("space    {}\n", space.join(", "));
    apps::list(&status.apps);
    Ok(DONE)
}

pub(crate) async fn events(client: &Client, app: Option<AppName>, json: bool) -> anyhow::Result<Exit> {
    let events = client.fetch_with(&cluster::Events {}, &cluster::EventsQuery { app }).await?;
    if json {
        print_json(&events)?;
        return Ok(DONE);
    }
    let rows = events.iter().map(|event| {
        let app = (event.subject.kind == SubjectKind::App).then_some(&event.subject.name);
        vec![clock(event.at), event.actor.clone(), or_dash(app), event.text.clone()]
    });
    table(&["when", "by", "app", "what"], rows);
    Ok(DONE)
}

pub(crate) async fn token(client: &Client, command: Token, json: bool) -> anyhow::Result<Exit> {
    match command {
        Token::Create { name, admin, read, deploy, expires: lifetime } => {
            let scope = match (admin, read, deploy) {
                (_, _, Some(app)) => TokenScope::Deploy { app },
                (true, _, _) => TokenScope::Admin,
                (_, true, _) => TokenScope::Read,
                _ => fail!(InvalidArguments, "name the scope of the token: --admin, --read or --deploy APP"),
            };
            let token = client.submit(&tokens::Create {}, &CreateToken { name, scope, lifetime }).await?;
            if json {
                print_json(&token)?;
            } else {
                out!("{}", token.secret);
                status!("This is shown once. It goes into GANTRY_TOKEN, or is git's password.");
            }
        }
        Token::Ls => {
            let tokens = client.fetch(&tokens::List {}).await?;
            if json {
                print_json(&tokens)?;
            } else {
                let rows = tokens.iter().map(|token| {
                    let ends = token.expires.map_or("never".to_owned(), time_until);
                    vec![token.name.clone(), scope(&token.scope), format!("{} ago", age(token.created)), ends]
                });
                table(&["name", "scope", "created", "expires"], rows);
            }
        }
        Token::Revoke { name } => {
            client.fetch(&tokens::Revoke { name: name.clone() }).await?;
            status!("{name} is revoked");
        }
    }
    Ok(DONE)
}

fn scope(scope: &TokenScope) -> String {
    match scope {
        TokenScope::Admin => "admin".to_owned(),
        TokenScope::Read => "read".to_owned(),
        TokenScope::Deploy { app } => format!("deploy to {app}"),
        TokenScope::Machine { machine } => format!("machine {machine}"),
    }
}
