//! Warnings about the machine and the store: shown by `gantry status`, and beside every answer of `gantry why`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_api::types::{StatusWarning, WarningKind};
use gantry_model::{ClusterPolicy, MachineName, PolicyKey};
use gantry_store::StoreFault;
use gantry_supervision::{Backoff, ReconcileLoop};

use crate::Server;
use crate::core::ClusterView;
use crate::servers::OtherServers;

/// Returns the warnings, each with its meaning and the action to take.
pub(crate) fn warnings(server: &Server, view: &ClusterView) -> Vec<StatusWarning> {
    let away = server.servers.iter().flat_map(OtherServers::unavailable).map(server_away);
    let faults = server.store_faults.get();
    let clocks = server.clock_offsets.wrong().into_iter().map(clock_off);
    clock(view)
        .into_iter()
        .chain(clocks)
        .chain(disk(server))
        .chain(faults.iter().map(store_fault))
        .chain(away)
        .collect()
}

/// Interval of questions to the members of the store.
const STORE_POLL: Duration = Duration::from_secs(5);

/// The faults of the store that were found last.
#[derive(Default)]
pub(crate) struct StoreFaults(Mutex<Vec<StoreFault>>);

impl StoreFaults {
    fn get(&self) -> Vec<StoreFault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks the members of the store how they are, for ever. A fault is logged when it begins.
pub(crate) async fn watch_store(server: Arc<Server>) {
    if server.servers.is_none() {
        return std::future::pending().await;
    }
    let pass = move || {
        let server = Arc::clone(&server);
        async move {
            let faults = server.core.store_faults().await;
            let known = server.store_faults.get();
            for fault in faults.iter().filter(|fault| !known.contains(fault)) {
                tracing::warn!("{}", store_fault(fault).text);
            }
            *server.store_faults.0.lock().unwrap_or_else(PoisonError::into_inner) = faults;
            Ok::<(), Infallible>(())
        }
    };
    ReconcileLoop::new("faults of the store", STORE_POLL, Backoff::constant(STORE_POLL)).run(pass).await;
}

fn store_fault(fault: &StoreFault) -> StatusWarning {
    let size = |size: &u64| gantry_model::Bytes(*size);
    let text = match fault {
        StoreFault::Away { member } => format!(
            "the etcd member {member} does not respond; with most members alive, nothing else is affected: start it again, \
             or replace it (`etcdctl member list`)"
        ),
        StoreFault::NoLeader { member } => format!(
            "the etcd member {member} knows no etcd leader: it is cut off, or most members are away; changes need most \
             members: check the members and the network between them"
        ),
        StoreFault::Full { member, size: used } => format!(
            "the etcd member {member} has used up its space quota ({}) and etcd takes no writes; running instances are not \
             affected: `etcdctl defrag --cluster`, raise --quota-backend-bytes if need be, then `etcdctl alarm disarm`",
            size(used)
        ),
        StoreFault::AlmostFull { member, size: used } => format!(
            "the etcd member {member} has {} of data, and etcd's default quota is 2 GiB: `etcdctl defrag --cluster`, or \
             raise --quota-backend-bytes",
            size(used)
        ),
    };
    StatusWarning { kind: WarningKind::StoreDegraded, text }
}

fn server_away(name: String) -> StatusWarning {
    let text =
        format!("the server {name} is away; changes go on through the others: its log, or its machine, tells why");
    StatusWarning { kind: WarningKind::ServerAway, text }
}

/// Warns of a jump of the wall clock, which explains odd ages and stamps.
fn clock(view: &ClusterView) -> Option<StatusWarning> {
    let jump = view.jumps.recent(view.now)?;
    let ago = view.now.since(jump.at) / 1000;
    let text = format!("{jump}, {ago} s ago; deploys and leases are not affected; earlier timestamps may look wrong");
    Some(StatusWarning { kind: WarningKind::ClockJumped, text })
}

/// Warns of a machine's clock, which decides about certificates and stamps lines of logs.
fn clock_off((machine, by): (MachineName, i64)) -> StatusWarning {
    let direction = if by < 0 { "behind" } else { "ahead of" };
    let text = format!(
        "the clock of {machine} is {} s {direction} the server's; lines of its logs are in the wrong order, and from an \
         hour on its certificate is refused: set the clock on {machine} (`timedatectl set-ntp true`)",
        by.unsigned_abs() / 1000
    );
    StatusWarning { kind: WarningKind::ClockOff, text }
}

/// Warns of a disk that takes no writes, which explains refused changes.
fn disk(server: &Server) -> Option<StatusWarning> {
    let data = &server.settings.data;
    let is_refused = !server.writes || gantry_linux::disk::is_read_only(data);
    is_refused.then(|| {
        let text = format!(
            "the disk of {} cannot be written to: it is read-only or failing, and `dmesg` shows the reason; running \
             instances are not affected, and changes are refused until the disk takes writes again",
            data.display()
        );
        StatusWarning { kind: WarningKind::DiskReadOnly, text }
    })
}

/// Warns of settings of this server that the cluster policy overrules. Several servers have different addresses, and a
/// proxy may stand before a server. So the policy must agree with the address of the apps only while `app-url` has the
/// earlier address of the server that leads `alone`.
pub(crate) fn overruled(settings: &ClusterPolicy, policy: &ClusterPolicy, alone: bool) -> Option<StatusWarning> {
    let is_compared = |key: PolicyKey| key != PolicyKey::AppUrl || (alone && policy.app_url_is_adopted());
    let differs = |key: &_| is_compared(*key) && settings.value(*key) != policy.value(*key);
    let (mut rules, mut given) = (Vec::new(), String::new());
    for key in settings.set_rules().filter(differs) {
        let value = settings.value(key);
        rules.push(format!("{key}={value} (the policy says {})", policy.value(key)));
        given.push_str(&format!(" {key}={value}"));
    }
    (!rules.is_empty()).then(|| {
        let text = format!(
            "the cluster policy overrules settings of this server: {}; remove the settings, or change the policy: \
             gantry cluster policy set{given}",
            rules.join(", ")
        );
        StatusWarning { kind: WarningKind::SettingsOverruled, text }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_each_setting_that_the_policy_overrules() {
        let mut settings = ClusterPolicy::default();
        let given = [
            (PolicyKey::Drain, "60"),
            (PolicyKey::Reserve, "50M"),
            (PolicyKey::Deadline, "2m"),
            (PolicyKey::AppUrl, "http:8080"),
        ];
        for (key, text) in given {
            settings.set(key, text).expect("a value");
        }
        let mut policy = ClusterPolicy::default();
        policy.set(PolicyKey::Reserve, "51200K").expect("a size");
        assert_eq!(
            overruled(&settings, &policy, true).map(|warning| warning.text).as_deref(),
            Some(
                "the cluster policy overrules settings of this server: drain=1m (the policy says 30s); remove the \
                 settings, or change the policy: gantry cluster policy set drain=1m"
            )
        );
        policy.set(PolicyKey::Drain, "1m").expect("a time");
        assert_eq!(overruled(&settings, &policy, true), None);
    }

    #[test]
    fn names_a_new_address_of_the_apps_that_the_adopted_one_overrules() {
        let of = |text: &str| {
            let mut settings = ClusterPolicy::default();
            settings.set(PolicyKey::AppUrl, text).expect("an address");
            settings
        };
        for (first, now, alone, warned) in [
            ("http:8080", "http:8080", true, false),
            ("http:8080", "http:9090", true, true),
            ("http", "http:9090", true, true),
            ("http:8080", "http:9090", false, false),
        ] {
            let policy = ClusterPolicy::default().adopt(&of(first));
            let warning = overruled(&of(now), &policy, alone);
            let expected = format!("app-url={now} (the policy says {first})");
            let is_named = warning.as_ref().is_some_and(|warning| warning.text.contains(&expected));
            assert_eq!((warning.is_some(), is_named), (warned, warned), "{first} {now} {alone}: {warning:?}");
            let mut chosen = policy;
            chosen.set(PolicyKey::AppUrl, "https").expect("an address");
            assert_eq!(overruled(&of(now), &chosen, alone), None, "a proxy stands before the server");
        }
    }
}
