//! Stacks: bases with well-known recipes.

use gantry_model::BaseName;

use crate::endpoint::{Json, Lines, NoBody, endpoints};
use crate::types::{ImageProgress, StackInfo};

endpoints! {
    /// All stacks, made or not
    List: GET "/v1/stacks", Read, NoBody => Json<Vec<StackInfo>>, [];
    /// Build a stack, or rebuild it with the newest packages
    Create { name: BaseName }: POST "/v1/stacks/{name}", Admin, NoBody => Lines<ImageProgress>,
        [StackNotFound, StackNameTaken, TooManyImageRequests];
}
