//! Bases: the images that apps are built on.

use gantry_model::BaseName;

use crate::endpoint::{Json, Lines, NoBody, RawBytes, Upload, endpoints};
use crate::types::{BaseInfo, ImageProgress, PullImage};

endpoints! {
    /// All bases
    List: GET "/v1/bases", Read, NoBody => Json<Vec<BaseInfo>>, [];
    /// Make a base; the body is base.toml
    Create { name: BaseName }: POST "/v1/bases/{name}", Admin, RawBytes => Lines<ImageProgress>,
        [InvalidBaseRecipe, TooManyImageRequests];
    /// Import a base; the body is an OCI archive
    Import { name: BaseName }: POST "/v1/bases/{name}/import", Admin, Upload => Json<BaseInfo>,
        [BaseImportFailed, BaseUnusable];
    /// Import a base from another registry
    Pull { name: BaseName }: POST "/v1/bases/{name}/pull", Admin, Json<PullImage> => Lines<ImageProgress>,
        [InvalidImageReference, TooManyImageRequests];
    /// Remove a base that no app is on
    Remove { name: BaseName }: DELETE "/v1/bases/{name}", Admin, NoBody => NoBody,
        [BaseNotFound, BaseInUse, BuildInProgress];
}
