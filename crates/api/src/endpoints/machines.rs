//! The machines of the cluster.

use gantry_model::MachineName;

use crate::endpoint::{Json, Nothing, endpoints};
use crate::types::MachineInfo;

endpoints! {
    /// All machines
    List: GET "/v1/machines", Read, Nothing => Json<Vec<MachineInfo>>, [];
    /// One machine
    Show { name: MachineName }: GET "/v1/machines/{name}", Read, Nothing => Json<MachineInfo>, [MachineNotFound];
}
