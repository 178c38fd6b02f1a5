//! Deploys, and the images that they deploy.

use gantry_model::{AppName, DeployNumber};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Json, Lines, NoBody, QueryParameters, endpoints};
use crate::types::{
    AcceptedDeploy, DeployInfo, DeployPlan, DeployProgress, ImageProgress, PlanDeploy, PullImage, StartDeploy,
};

/// Query of a followed deploy.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct FollowQuery {
    /// The point up to which the deploy is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<FollowUntil>,
}

/// The point up to which a deploy is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowUntil {
    /// The new release serves.
    Serving,
    /// The bake time is over.
    Verdict,
    /// The point that the cluster policy names.
    Setting,
}

impl QueryParameters for FollowQuery {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[(
        "until",
        "the end of the stream: `serving`, `verdict` (the default), or `setting` for the cluster policy's",
    )];
}

endpoints! {
    /// List the deploys of an app
    List { app: AppName }: GET "/v1/apps/{app}/deploys", Read, NoBody => Json<Vec<DeployInfo>>,
        [AppNotFound, AppBeingDestroyed];
    /// Deploy an image, or go back
    Start { app: AppName }: POST "/v1/apps/{app}/deploys", Deploy, Json<StartDeploy> => Json<AcceptedDeploy>,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, InvalidImageReference, ImageElsewhere, ImageNotFound,
         ImageUnusable, PlatformMissing, ReleaseNotFound, NoRelease, NoEarlierRelease, InvalidVolume, VolumeNotFound, TooManyVolumes,
         VolumePathTaken, PlanStale];
    /// Show the effect of a deploy beforehand
    Plan { app: AppName }: POST "/v1/apps/{app}/plan", Deploy, Json<PlanDeploy> => Json<DeployPlan>,
        [AppNotFound, AppBeingDestroyed, RenameInProgress, InvalidImageReference, ImageElsewhere, ImageNotFound,
         ImageUnusable, PlatformMissing, ReleaseNotFound, NoRelease, NoEarlierRelease, InvalidVolume, VolumeNotFound, TooManyVolumes,
         VolumePathTaken];
    /// Take an image from another registry
    Pull { app: AppName }: POST "/v1/apps/{app}/pull", Deploy, Json<PullImage> => Lines<ImageProgress>,
        [AppNotFound, AppBeingDestroyed, InvalidImageReference, TooManyImageRequests];
    /// A deploy as it goes
    Follow { app: AppName, number: DeployNumber }: GET "/v1/apps/{app}/deploys/{number}/follow" ? FollowQuery, Read,
        NoBody => Lines<DeployProgress>, [DeployNotFound];
    /// Move the traffic to the held release
    Promote { app: AppName }: POST "/v1/apps/{app}/promote", Deploy, NoBody => Json<AcceptedDeploy>,
        [AppNotFound, AppBeingDestroyed, NoHeldDeploy, NoDeployInProgress];
    /// Take the deploy under way back
    Abort { app: AppName }: POST "/v1/apps/{app}/abort", Deploy, NoBody => Json<AcceptedDeploy>,
        [AppNotFound, AppBeingDestroyed, NoHeldDeploy, NoDeployInProgress];
}
