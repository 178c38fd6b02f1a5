//! Uploaded code.

use gantry_model::{AppName, BaseName};
use gantry_queue::CodeName;
use serde::{Deserialize, Serialize};

use crate::codes::CodeInfo;
use crate::endpoint::{Json, NoBody, QueryParameters, Upload as UploadedFile, endpoints};

/// Query of a list of codes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CodesQuery {
    /// Only codes of this app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<AppName>,
}

impl QueryParameters for CodesQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[("project", "only codes of this app")];

    fn app(&self) -> Option<&AppName> {
        self.project.as_ref()
    }
}

/// Query of an upload.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UploadQuery {
    /// The stack, or any other base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<BaseName>,
    /// The command. Without it, the server looks for a main file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl QueryParameters for UploadQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("stack", "the stack, or any other base, that the code runs on"),
        ("command", "the command; without it, the server looks for a main file"),
    ];
}

endpoints! {
    /// All uploaded codes
    List: GET "/v1/codes" ? CodesQuery, Read, NoBody => Json<Vec<CodeInfo>>, [];
    /// An uploaded code with its revisions
    Show { project: AppName, code: CodeName }: GET "/v1/codes/{project}/{code}", Read, NoBody => Json<CodeInfo>,
        [AppNotFound, AppBeingDestroyed, CodeNotFound];
    /// Upload a code as a new revision; the body is a zip, tar or tar.gz archive of its folder
    Upload { project: AppName, code: CodeName }: POST "/v1/codes/{project}/{code}" ? UploadQuery, Deploy,
        UploadedFile => Json<CodeInfo>,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, BaseNotFound, BaseChanged, StackNotMade, InvalidCode,
         NoCodeCommand, CodeIsRole, TooManyCodes];
    /// Remove a code with its revisions; queued jobs still run
    Remove { project: AppName, code: CodeName }: DELETE "/v1/codes/{project}/{code}", Deploy, NoBody => NoBody,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, CodeNotFound];
}
