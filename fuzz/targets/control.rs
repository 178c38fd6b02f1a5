//! A line of the control protocol, as an agent, a router and the server read it.
#![no_main]
use gantry_control::sessions::SessionRequest;
use gantry_control::{
    MachineReport, PeerMessage, Replicated, RouterReport, ServerMessage, Update, UpdateReceiver, version_one,
};
use gantry_model::{MachineName, MachinePlan, RoutingTable};

/// Receives an update, in the form of this version and of version 1.
fn receive<T: Replicated>(update: &Update) {
    let here = MachineName::parse("m").expect("a name");
    let _ = UpdateReceiver::<T>::new(None).receive(update);
    let mut upgraded = update.clone();
    version_one::upgrade(&mut upgraded, &here);
    let _ = UpdateReceiver::<T>::new(None).receive(&upgraded);
    version_one::downgrade(&mut upgraded, &here);
}

libfuzzer_sys::fuzz_target!(|line: &[u8]| {
    match serde_json::from_slice(line) {
        Ok(ServerMessage::Session { request }) => drop(SessionRequest::read(request)),
        Ok(ServerMessage::Update(update)) => {
            receive::<MachinePlan>(&update);
            receive::<RoutingTable>(&update);
        }
        _ => {}
    }
    if let Ok(PeerMessage::Update(update)) = serde_json::from_slice(line) {
        receive::<MachineReport>(&update);
        receive::<RouterReport>(&update);
    }
});
