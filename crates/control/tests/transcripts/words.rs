//! Words: the values of enums without fields.

use gantry_control::jobs::AttemptOutcome;
use gantry_model::role::{AppProtocol, MissedPolicy, OverlapPolicy, ShutdownSignal};
use gantry_model::{
    BuildPhase, ClosedReason, Exposure, InstancePhase, JoinRole, Kind, NetworkFlow, NetworkPart, RequestFailure,
};

use crate::transcript::Transcript;

/// Records all words.
pub(crate) fn record(transcript: &mut Transcript) {
    transcript.message("words: attempt outcome", &words!(AttemptOutcome { Succeeded, Failed, TimedOut }));
    let phases = words!(BuildPhase { Source, Roles, Base, Compile, Image, Configuration, Environment, Space, Machine });
    transcript.message("words: build phase", &phases);
    transcript.message("words: closed reason", &words!(ClosedReason { NoRelease, NoWebRole, ScaledToZero }));
    transcript.message("words: exposure", &words!(Exposure { Http, Tcp, None }));
    transcript.message("words: instance phase", &phases_of_instances());
    transcript.message("words: join role", &words!(JoinRole { Agent, Server }));
    transcript.message("words: kind", &words!(Kind { Service, Job, OneOff, Build }));
    transcript.message("words: missed policy", &words!(MissedPolicy { Skip, Once, All }));
    transcript.message("words: network flow", &words!(NetworkFlow { Names, Requests, Outside, Between }));
    let parts = words!(NetworkPart { Bridge, Address, Route, Ports, Rules, Forwarding });
    transcript.message("words: network part", &parts);
    transcript.message("words: overlap policy", &words!(OverlapPolicy { Allow, Forbid, Replace }));
    transcript.message("words: protocol", &words!(AppProtocol { Http1, H2c }));
    transcript.message("words: request failure", &request_failures());
    let signals = words!(ShutdownSignal { Term, Quit, Int, Hup, Usr1, Usr2, Winch });
    transcript.message("words: stop signal", &signals);
}

/// All phases of an instance.
pub(crate) fn phases_of_instances() -> Vec<InstancePhase> {
    words!(InstancePhase { Preparing, Starting, Ready, Unhealthy, Exited, Failed, Stopping })
}

/// All kinds of request failure.
pub(crate) fn request_failures() -> Vec<RequestFailure> {
    words!(RequestFailure { Broken, Slow, NoInstance, Cut, GivenUp, ServerError, Limited })
}
