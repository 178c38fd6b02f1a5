//! `gantry deploy`, `releases`, `rollback`, `promote`, `abort`.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use gantry_api::endpoints::deploys::{FollowQuery, FollowUntil};
use gantry_api::endpoints::{apps, deploys};
use gantry_api::types::{
    DeployPlan, DeployProgress, DeploySource, ImageChange, PlanDeploy, PlannedCopy, RoleChange, StartDeploy,
};
use gantry_api::{Client, ClientError, ErrorCode, ReceivedCode};
use gantry_model::{AppName, DeployNumber, MachineName};

use super::pulls;
use crate::args::{Follow, Planned};
use crate::coded::WithCode;
use crate::exit::{DONE, Exit, FAILED, TIMED_OUT};
use crate::printer::{age, json as print_json, out, print_status, status, table};

/// A deploy that a person asks for.
pub(crate) struct DeployRequest {
    /// The source; none for the current release, which can only be planned.
    pub(crate) source: Option<DeploySource>,
    pub(crate) hold: bool,
    pub(crate) planned: Planned,
    pub(crate) follow: Follow,
}

/// The source of a deploy of an image. An image of another registry is pulled first.
pub(crate) async fn image_source(
    client: &Client,
    app: &AppName,
    reference: String,
    settings: ImageChange,
) -> anyhow::Result<DeploySource> {
    // Same rule as in the server: the name of another registry has a dot or a port in its first part.
    let foreign =
        reference.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    if !foreign {
        return Ok(DeploySource::Image { reference, origin: None, settings });
    }
    let local = pulls::image(client, app, &reference).await?;
    Ok(DeploySource::Image { reference: local, origin: Some(reference), settings })
}

/// Starts a deploy and follows it, or shows what it would do.
pub(crate) async fn run(client: &Client, app: &AppName, request: DeployRequest, json: bool) -> anyhow::Result<Exit> {
    let DeployRequest { source, hold, planned, follow: wait } = request;
    let source = match source {
        Some(source) if !planned.plan => source,
        source => {
            let plan = client.submit(&deploys::Plan { app: app.clone() }, &PlanDeploy { source }).await?;
            return show_plan(&plan, json);
        }
    };
    let request = StartDeploy { source, hold, plan: planned.plan_id };
    let accepted = client.submit(&deploys::Start { app: app.clone() }, &request).await?;
    follow(client, app, accepted.deploy, wait).await
}

/// Prints a plan: a line for each role, and below it the copies that start and end.
fn show_plan(plan: &DeployPlan, json: bool) -> anyhow::Result<Exit> {
    if json {
        print_json(plan)?;
    } else {
        out!("{}", plan_text(plan));
    }
    Ok(DONE)
}

fn plan_text(plan: &DeployPlan) -> String {
    let DeployPlan { app, id, release, previous, image, roles, waits } = plan;
    let before = previous.map_or("no release".to_owned(), |previous| previous.to_string());
    let mut lines = vec![format!("{app}: {before} -> {release}, image {}", image.short())];
    let place = |copy: &PlannedCopy| {
        let machine = copy.machine.as_ref().map_or("a machine to be chosen".to_owned(), ToString::to_string);
        format!("{} on {machine}", copy.slot.short())
    };
    for role in roles {
        let (mark, summary) = match role.change {
            RoleChange::Added => ('+', "new role".to_owned()),
            RoleChange::Removed => ('-', "role removed".to_owned()),
            _ if role.settings.is_empty() => ('~', "same settings".to_owned()),
            _ => ('~', format!("changes: {}", role.settings.join(", "))),
        };
        let order = if role.stop_first { "; the old copy ends first" } else { "" };
        let (starts, stops) = (role.starts.len(), role.stops.len());
        lines.push(format!("{mark} {}: {starts} to start, {stops} to end; {summary}{order}", role.role));
        lines.extend(role.starts.iter().map(|copy| format!("    + {}", place(copy))));
        lines.extend(role.stops.iter().map(|copy| format!("    - {}", place(copy))));
    }
    lines.extend(waits.iter().map(|wait| format!("! {}", wait.text)));
    let starts = roles.iter().flat_map(|role| &role.starts);
    let machines: BTreeSet<&MachineName> = starts.clone().filter_map(|copy| copy.machine.as_ref()).collect();
    let stops: usize = roles.iter().map(|role| role.stops.len()).sum();
    let count = starts.count();
    lines.push(format!("{count} to start on {} machines, {stops} to end; plan {id}", machines.len()));
    lines.join("\n")
}

pub(crate) async fn promote(client: &Client, app: &AppName, wait: Follow) -> anyhow::Result<Exit> {
    let accepted = client.fetch(&deploys::Promote { app: app.clone() }).await?;
    follow(client, app, accepted.deploy, wait).await
}

pub(crate) async fn abort(client: &Client, app: &AppName) -> anyhow::Result<Exit> {
    let accepted = client.fetch(&deploys::Abort { app: app.clone() }).await?;
    // An aborted deploy counts as failed, but here the abort was the request.
    follow(client, app, accepted.deploy, Follow { wait: true }).await.map(|_| DONE)
}

/// Shows the progress of a deploy, and finally prints the URL on standard output. A restarted server continues the
/// deploy, and this function follows the deploy again.
pub(crate) async fn follow(client: &Client, app: &AppName, number: DeployNumber, wait: Follow) -> anyhow::Result<Exit> {
    let until = if wait.wait { FollowUntil::Verdict } else { FollowUntil::Setting };
    let (at, query) = (deploys::Follow { app: app.clone(), number }, FollowQuery { until: Some(until) });
    let mut follower = Follower { at, query, shown: HashSet::new() };
    let mut gone: Option<Instant> = None;
    loop {
        let before = follower.shown.len();
        let lost = match follower.run(client).await {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => None,
            Err(error) if is_passing(&error) => Some(error),
            Err(error) => return Err(error.into()),
        };
        if gone.is_none() || follower.shown.len() > before {
            gone = Some(Instant::now());
            status!("gantry: the server went away; the deploy goes on, and is followed again when the server is back");
        }
        if gone.is_some_and(|since| since.elapsed() > OUTAGE_MAX) {
            let lost = lost.map_or_else(|| anyhow::anyhow!("the server ends before the deploy does"), Into::into);
            let lost =
                lost.context(format!("the deploy can no longer be followed; `gantry why {app}` shows its result"));
            return Err(lost).with_code(ErrorCode::DeployUnfollowed);
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Time that the server may be unreachable: `up` restarts a crashed server within 2 s, and the store may need time.
const OUTAGE_MAX: Duration = Duration::from_secs(30);

/// Retry interval for following a deploy again.
const RETRY: Duration = Duration::from_millis(200);

/// Returns whether the error goes away once the server is back.
fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Problem(problem) => problem.status == 503,
        ClientError::Answer { .. } => false,
    }
}

struct Follower {
    at: deploys::Follow,
    query: FollowQuery,
    /// Lines already shown; after a reconnect, the server sends all lines again.
    shown: HashSet<String>,
}

impl Follower {
    /// Follows the deploy to its end; returns `None` if the stream ends before the deploy.
    async fn run(&mut self, client: &Client) -> Result<Option<Exit>, ClientError> {
        let mut events = client.follow(&self.at, &self.query).await?;
        let again = self.shown.clone();
        while let Some(event) = events.next().await {
            match event? {
                DeployProgress::Line { text } => {
                    if !again.contains(&text) {
                        print_status(&text);
                    }
                    self.shown.insert(text);
                }
                DeployProgress::End { deploy, url } if deploy.state.is_good() => {
                    if let Some(url) = url {
                        out!("{url}");
                    }
                    return Ok(Some(DONE));
                }
                DeployProgress::End { deploy, .. } => {
                    let timeout = ReceivedCode::Known(ErrorCode::DeployTimeout);
                    let late = deploy.failure.is_some_and(|failure| failure.code == timeout);
                    return Ok(Some(if late { TIMED_OUT } else { FAILED }));
                }
            }
        }
        Ok(None)
    }
}

pub(crate) async fn releases(client: &Client, app: &AppName, json: bool) -> anyhow::Result<Exit> {
    let releases = client.fetch(&apps::Releases { app: app.clone() }).await?;
    if json {
        print_json(&releases)?;
        return Ok(DONE);
    }
    let rows = releases.iter().rev().map(|release| {
        let mark = match (release.current, release.good) {
            (true, _) => "serves",
            (false, true) => "good",
            (false, false) => "not good",
        };
        vec![
            release.number.to_string(),
            mark.to_owned(),
            release.image.short().to_owned(),
            release.cause.text.clone(),
            release.by.clone(),
            format!("{} ago", age(release.created)),
        ]
    });
    table(&["release", "state", "image", "why", "by", "when"], rows);
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    use gantry_api::samples::Sample;

    use super::*;

    #[test]
    fn a_plan_names_each_copy_and_counts_them() {
        let text = plan_text(&DeployPlan::sample());
        let expected = "storefront: v6 -> v7, image 000000000000
~ web: 1 to start, 1 to end; changes: limits
    + web-1 on m2
    - web-1 on m1
! the deploy waits for deploy #6
1 to start on 1 machines, 1 to end; plan 3fa9c1d27b04";
        assert_eq!(text, expected);
    }
}
