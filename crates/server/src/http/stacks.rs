//! `/v1/stacks`: bases with well-known recipes.

use std::sync::Arc;

use gantry_admission::check_stack;
use gantry_api::endpoints::stacks as endpoints;
use gantry_api::types::{BaseInfo, ImageProgress, StackInfo};
use gantry_api::{ErrorCode, Problem};
use gantry_build::bases::{BaseRecipe, base_documents};
use gantry_build::stacks::{STACKS, Stack, tiny_layer};
use gantry_model::{BaseName, BaseSource};
use tokio::sync::mpsc;

use super::auth::Caller;
use super::bases::{base_info, build_base, store_base};
use super::call::{Call, Routes};
use super::{HttpResult, parse_name, pulls};
use crate::disk_reserve::check_reserve;
use crate::{Server, causes};

/// Adds the endpoints of stacks.
pub(super) fn routes(routes: Routes) -> Routes {
    routes.endpoint(list).endpoint(create)
}

async fn list(Call { server, .. }: Call<endpoints::List>) -> HttpResult<Vec<StackInfo>> {
    let view = server.core.view();
    let info = |stack: &Stack| {
        let name: BaseName = parse_name(stack.name)?;
        let record = view.records.bases.get(&name);
        let of_operator = record.is_some_and(|base| !base.stack);
        let base = record.cloned().map(base_info);
        let packages = stack.packages.iter().map(|package| (*package).to_owned()).collect();
        Ok(StackInfo { name, about: stack.about.to_owned(), packages, base, of_operator })
    };
    STACKS.iter().map(info).collect()
}

async fn create(Call { server, caller, at, .. }: Call<endpoints::Create>) -> HttpResult<mpsc::Receiver<ImageProgress>> {
    let stack = Stack::named(at.name.as_str()).ok_or_else(|| not_found(&at.name))?;
    check_stack(&server.core.view().records, &at.name)?;
    Ok(pulls::run_streamed(&server.tasks.clone(), server.image_requests.admit()?, async move |sender| {
        let base = match stack.recipe() {
            Some(recipe) => make(&server, &caller, at.name, &recipe, &sender).await?,
            None => make_tiny(&server, &caller, at.name).await?,
        };
        Ok(ImageProgress::Base { base })
    }))
}

/// The error for a name that no stack has.
pub(super) fn not_found(name: &BaseName) -> Problem {
    let known: Vec<&str> = STACKS.iter().map(|stack| stack.name).collect();
    Problem::new(ErrorCode::StackNotFound, format!("there is no stack {name}; the stacks are {}", known.join(", ")))
}

/// Makes a stack of Debian packages on an agent.
async fn make(
    server: &Arc<Server>,
    caller: &Caller,
    name: BaseName,
    recipe: &BaseRecipe,
    sender: &mpsc::Sender<ImageProgress>,
) -> HttpResult<BaseInfo> {
    let text = recipe.to_toml().map_err(|error| Problem::internal(format!("the recipe of stack {name}: {error}")))?;
    build_base(server, caller, name, (text, recipe), BaseSource::Stack, sender).await
}

/// Makes the stack that has no packages. The server needs no agent for it.
async fn make_tiny(server: &Server, caller: &Caller, name: BaseName) -> HttpResult<BaseInfo> {
    check_reserve(server, "a stack", 0)?;
    let _pin = server.gc_pins.take();
    let scratch = server.images.scratch().to_owned();
    let failed = |why: &dyn std::error::Error| Problem::internal(format!("cannot make stack {name}: {}", causes(why)));
    let made = tokio::task::spawn_blocking(move || tiny_layer(&scratch)).await.map_err(|error| failed(&error))?;
    let layer = made.map_err(|error| failed(&error))?;
    let documents = base_documents(&layer).map_err(|error| failed(&error))?;
    let image = server.images.store(layer, documents).await.map_err(|error| failed(&error))?;
    store_base(server, caller, name, image, "static files".to_owned(), BaseSource::Stack).await
}
