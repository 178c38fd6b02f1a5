//! The machines of the cluster.

use gantry_model::MachineName;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, NoBody, QueryParameters, endpoints};
use crate::types::{ChangeAvailability, ChangeLabels, MachineInfo};

/// Query of a removal.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RemoveMachineQuery {
    /// True to remove a lost machine, and to give up what was on it.
    #[serde(default)]
    pub force: bool,
}

impl QueryParameters for RemoveMachineQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] =
        &[("force", "`true` to remove a lost machine, and to give up what was on it")];
}

endpoints! {
    /// All machines
    List: GET "/v1/machines", Read, NoBody => Json<Vec<MachineInfo>>, [];
    /// One machine
    Show { name: MachineName }: GET "/v1/machines/{name}", Read, NoBody => Json<MachineInfo>, [MachineNotFound];
    /// Change the labels of a machine; null removes a label
    Label { name: MachineName }: PATCH "/v1/machines/{name}/labels", Admin, Json<ChangeLabels> => Json<MachineInfo>,
        [MachineNotFound, TooManyLabels];
    /// Let the machine take copies, take no new copies, or lose its copies
    SetAvailability { name: MachineName }: PUT "/v1/machines/{name}/availability", Admin,
        Json<ChangeAvailability> => Json<MachineInfo>, [MachineNotFound, InvalidMachineReason];
    /// Remove the machine from the cluster
    Remove { name: MachineName }: DELETE "/v1/machines/{name}" ? RemoveMachineQuery, Admin,
        NoBody => Json<MachineInfo>, [MachineNotFound, MachineInUse];
}
