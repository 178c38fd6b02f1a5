//! Faults of processes and machines, at random moments of a run's first part.

use gantry_model::Moment;

use crate::events::Event;
use crate::simulation::{RECOVERY_MILLIS, Simulation};
use gantry_random::Random;

/// A fault. Times are in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The leading server dies, and starts again later.
    ServerDies { pause: u64 },
    /// The leading server stands still, perhaps for longer than its lease.
    ServerPauses { length: u64 },
    /// The wall clock of a server's machine jumps, by milliseconds.
    ClockJumps { server: usize, by: i64 },
    /// The wall clocks of all servers' machines jump, by milliseconds.
    ClocksJump { by: i64 },
    /// No server reaches the store.
    StoreAway { length: u64 },
    /// An agent's process dies, and starts again later.
    AgentDies { machine: usize, pause: u64 },
    /// A router's process dies, and starts again later.
    RouterDies { machine: usize, pause: u64 },
    /// A new router takes the place of a router, which ends later.
    RouterReplaced { machine: usize, drain: u64 },
    /// A machine loses power.
    MachineReboots { machine: usize, pause: u64 },
    /// A machine reaches no server.
    MachineCutOff { machine: usize, length: u64 },
    /// A container crashes, or fails its checks.
    Container { machine: usize, crashes: bool },
}

impl Simulation {
    /// Schedules the faults of the run.
    pub(crate) fn schedule_faults(&mut self) {
        for _ in 0..self.settings.faults() {
            let at = self.random.between(3_000, self.settings.seconds * 1000);
            let fault = self.random_fault();
            self.timeline.after(at, Event::Fault(fault));
        }
    }

    fn random_fault(&mut self) -> Fault {
        let servers = self.servers.len();
        let random = &mut self.random;
        let machine = random.index(self.settings.machines);
        match random.between(0, 21) {
            0..2 => Fault::ServerDies { pause: random.between(100, 12_000) },
            2..4 => Fault::ServerPauses { length: random.between(500, 25_000) },
            4 => Fault::StoreAway { length: random.between(500, 5_000) },
            5..7 => Fault::AgentDies { machine, pause: random.between(50, 10_000) },
            7 => Fault::RouterDies { machine, pause: random.between(50, 20_000) },
            8 => Fault::RouterReplaced { machine, drain: random.between(50, 20_000) },
            9 => Fault::RouterDies { machine, pause: random.between(60_000, 90_000) },
            10..12 => Fault::MachineReboots { machine, pause: random.between(2_000, 15_000) },
            12..16 => Fault::MachineCutOff { machine, length: random.between(500, 25_000) },
            19 => Fault::ClocksJump { by: clock_jump(random) },
            20 => Fault::ClockJumps { server: random.index(servers), by: clock_jump(random) },
            other => Fault::Container { machine, crashes: other < 18 },
        }
    }

    /// Lets a fault happen.
    pub(crate) fn inject(&mut self, fault: Fault) {
        let now = self.timeline.now;
        let leading = (0..self.servers.len()).find(|server| self.servers[*server].answers());
        match fault {
            Fault::ServerDies { pause } => leading.into_iter().for_each(|server| self.stop_server(server, pause)),
            Fault::ServerPauses { length } => {
                if let Some(server) = leading {
                    self.servers[server].is_paused = true;
                    self.timeline.after(length, Event::ResumeServer(server));
                }
            }
            Fault::ClockJumps { server, by } => self.move_clock(server, by),
            Fault::ClocksJump { by } => (0..self.servers.len()).for_each(|server| self.move_clock(server, by)),
            Fault::StoreAway { length } => self.store.away_until = Moment(now.0 + length),
            Fault::AgentDies { machine, pause } => self.stop_agent(machine, pause),
            Fault::RouterReplaced { machine, drain } => self.replace_router(machine, drain),
            Fault::RouterDies { machine, pause } => {
                let recovery = self.last_fault().since(now) + RECOVERY_MILLIS - 1_000;
                self.stop_router(machine, pause.min(recovery));
            }
            Fault::MachineReboots { machine, pause } => {
                self.stop_agent(machine, pause);
                self.stop_routers(machine, pause);
                self.lose_containers(machine);
            }
            Fault::MachineCutOff { machine, length } => {
                self.links.cut_off.insert(machine);
                self.timeline.after(length, Event::Healed(machine));
            }
            Fault::Container { machine, crashes } => self.disturb_container(machine, crashes),
        }
    }
}

/// A jump of up to an hour, in milliseconds.
fn clock_jump(random: &mut Random) -> i64 {
    i64::try_from(random.between(0, 7_200_000)).expect("small") - 3_600_000
}
