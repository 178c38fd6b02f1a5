//! Requests that run at the same time, overall and for each host. Pure.
//!
//! A host whose last request got no response in time is slow: it has one request at a time, and all slow hosts together
//! half of the slots. So receivers that hang delay no others.

use std::collections::BTreeMap;

/// Maximum number of requests at the same time.
const REQUESTS_MAX: u32 = 128;

/// Maximum number of requests to slow hosts at the same time.
const SLOW_REQUESTS_MAX: u32 = REQUESTS_MAX / 2;

/// Maximum number of requests to one host at the same time.
pub(crate) const PER_HOST: u32 = 4;

/// Maximum number of slow hosts without a request that are remembered.
const REMEMBERED: usize = 1000;

/// Requests under way, by host.
#[derive(Debug, Default)]
pub(crate) struct HostSlots {
    hosts: BTreeMap<String, Host>,
    running: u32,
    ends: u64,
}

#[derive(Debug, Default)]
struct Host {
    running: u32,
    slow: bool,
    /// Order of the last end.
    ended: u64,
}

impl HostSlots {
    /// Number of further requests.
    pub(crate) fn free(&self) -> u32 {
        REQUESTS_MAX.saturating_sub(self.running)
    }

    /// Further requests of each host that does not have [`PER_HOST`] free.
    pub(crate) fn free_requests(&self) -> BTreeMap<String, u32> {
        let mut slow: Vec<_> = self.hosts.iter().filter(|(_, host)| host.slow).collect();
        let mut left = SLOW_REQUESTS_MAX.saturating_sub(slow.iter().map(|(_, host)| host.running).sum());
        // The one that waits longest goes first.
        slow.sort_by_key(|(_, host)| host.ended);
        let mut rooms = BTreeMap::new();
        for (name, host) in slow {
            let room = u32::from(host.running == 0 && left > 0);
            left -= room;
            rooms.insert(name.clone(), room);
        }
        let others = self.hosts.iter().filter(|(_, host)| !host.slow);
        rooms.extend(others.map(|(name, host)| (name.clone(), PER_HOST.saturating_sub(host.running))));
        rooms
    }

    /// A request begins.
    pub(crate) fn begin(&mut self, host: &str) {
        self.running += 1;
        self.hosts.entry(host.to_owned()).or_default().running += 1;
    }

    /// Ends a request. `slow`: the host sent no response in time.
    pub(crate) fn end(&mut self, name: &str, slow: bool) {
        self.running = self.running.saturating_sub(1);
        self.ends += 1;
        let ends = self.ends;
        let Some(host) = self.hosts.get_mut(name) else { return };
        (host.running, host.slow, host.ended) = (host.running.saturating_sub(1), slow, ends);
        let is_idle = host.running == 0;
        if is_idle && (!slow || self.hosts.len() > REMEMBERED + REQUESTS_MAX as usize) {
            self.hosts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_few_slots_and_a_slow_one_a_single_one() {
        let mut slots = HostSlots::default();
        for _ in 0..3 {
            slots.begin("a");
        }
        assert_eq!((slots.free_requests()["a"], slots.free()), (1, REQUESTS_MAX - 3));
        slots.end("a", true);
        assert_eq!(slots.free_requests()["a"], 0, "two requests are under way");
        slots.end("a", true);
        slots.end("a", true);
        assert_eq!(slots.free_requests()["a"], 1);
        slots.begin("a");
        slots.end("a", false);
        assert!(slots.free_requests().is_empty(), "a response makes the host a usual one");
    }

    #[test]
    fn slow_hosts_leave_half_of_the_slots_and_take_turns() {
        let mut slots = HostSlots::default();
        let name = |number: u32| format!("host-{number:03}");
        for number in 0..100 {
            slots.begin(&name(number));
            slots.end(&name(number), true);
        }
        let given = |slots: &HostSlots| -> Vec<String> {
            slots.free_requests().into_iter().filter(|(_, room)| *room > 0).map(|(name, _)| name).collect()
        };
        let first = given(&slots);
        assert_eq!(first.len(), SLOW_REQUESTS_MAX as usize);
        first.iter().for_each(|name| slots.begin(name));
        assert!(given(&slots).is_empty());
        assert_eq!(slots.free(), REQUESTS_MAX - SLOW_REQUESTS_MAX);
        first.iter().for_each(|name| slots.end(name, true));
        assert!(given(&slots).contains(&name(99)), "those that waited go first");
    }

    #[test]
    fn the_memory_of_slow_hosts_is_bounded() {
        let mut slots = HostSlots::default();
        for number in 0..5000 {
            let name = number.to_string();
            slots.begin(&name);
            slots.end(&name, true);
        }
        assert!(slots.hosts.len() <= REMEMBERED + REQUESTS_MAX as usize + 1);
    }
}
