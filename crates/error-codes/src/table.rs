//! The table of all codes.

use crate::{CodeDescription, Group};

/// Declares the codes: name of the variant, name in JSON, HTTP status, meaning, cause, remedy.
macro_rules! codes {
    ($($title:literal { $($variant:ident $name:literal $status:literal $meaning:literal $cause:literal $remedy:literal)* })*) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $meaning] $variant,)*)*
        }

        impl ErrorCode {
            /// Returns the code's row of the table.
            #[must_use]
            pub fn description(self) -> &'static CodeDescription {
                match self {
                    $($(Self::$variant => &CodeDescription {
                        code: Self::$variant,
                        name: $name,
                        status: $status,
                        meaning: $meaning,
                        cause: $cause,
                        remedy: $remedy,
                    },)*)*
                }
            }
        }

        /// All codes by area, in the order of the manual.
        pub const GROUPS: &[Group] = &[
            $(Group {
                title: $title,
                rows: &[$(CodeDescription {
                    code: ErrorCode::$variant,
                    name: $name,
                    status: $status,
                    meaning: $meaning,
                    cause: $cause,
                    remedy: $remedy,
                },)*],
            },)*
        ];
    };
}

codes! {
"Access" {
    TokenRequired "token_required" 401
        "The request carries no token."
        "Every request except the API's description needs a token."
        "Set GANTRY_TOKEN, or send the token as the password (git, docker) or as a bearer token. `gantry token create NAME --deploy APP` makes a token."
    TokenUnknown "token_unknown" 401
        "The server does not know the token."
        "The token was revoked, belongs to another cluster, or is misspelled."
        "Check which token was sent: the command line names the file or variable. `gantry token create NAME --deploy APP` makes another token."
    TokenExpired "token_expired" 401
        "The token has expired."
        "The token was created with a lifetime, and the lifetime is over."
        "Ask an administrator for a new token: `gantry token create NAME --deploy APP`."
    ScopeInsufficient "scope_insufficient" 403
        "The token's scope does not allow this operation."
        "A token's scope is reading, an app, a machine, or administration. The message names the required scope."
        "Use a token with the named scope, or ask an administrator to do this."
    TokenMissing "token_missing" 0
        "The command line found no token to send."
        "GANTRY_TOKEN is not set, and no token file exists. On the server's own machine, `gantry up` makes a file for root."
        "On the server's machine, run the command as root after `gantry up`; name another data folder with GANTRY_DATA or `--token-file DATA/admin-token`. On any other machine, ask an administrator for a token, and set GANTRY_TOKEN, or write the token into ~/.config/gantry/token."
    TokenFileUnreadable "token_file_unreadable" 0
        "The command line cannot read the token file."
        "The file of `--token-file` or GANTRY_TOKEN_FILE is missing, or your user may not read the file."
        "Name another file, or run the command as a user with read access."
}
"Requests" {
    InvalidRequest "invalid_request" 400
        "The request's body or query cannot be understood."
        "The JSON is malformed, or a field is missing, unknown, or of another type. The message names the place."
        "Correct the request. `/v1/openapi.json` describes each request."
    InvalidName "invalid_name" 400
        "A name in the request is invalid."
        "Names of apps, roles, bases, machines and hosts have rules. The message states the rule."
        "Choose a name within the rule."
    EndpointNotFound "endpoint_not_found" 404
        "The server has no endpoint at this path."
        "The path is misspelled, or the client is of another version than the server."
        "Compare the path with `/v1/openapi.json`; upgrade the older side."
    MethodNotAllowed "method_not_allowed" 405
        "The endpoint exists, but not with this HTTP method."
        "The client used another method than the endpoint has."
        "Use a method of the path in `/v1/openapi.json`."
    RequestTooLarge "request_too_large" 413
        "The request's body is too large."
        "Each kind of body has a limit; the message names the limit."
        "Send less. Large files belong into the repository, an image or a volume."
    RequestBroken "request_broken" 400
        "The request's body ended early."
        "The client or a proxy closed the connection before the end of the body."
        "Send the request again."
    EncodingUnsupported "encoding_unsupported" 415
        "The server does not accept the content encoding of the request's body."
        "The server accepts plain bodies, and gzip from git."
        "Send the body without an encoding."
    SessionRequired "session_required" 426
        "The endpoint opens a session and needs an upgraded connection."
        "The request has no `Upgrade` header, or a proxy removed the header."
        "Use the command line, such as `gantry exec APP`, and let the proxy pass upgrades on."
    SessionNotFound "session_not_found" 404
        "No client waits for this session any more."
        "The client closed the connection before the agent called back."
        "Start the session again if you still need the session."
}
"Apps" {
    AppNotFound "app_not_found" 404
        "No app has this name."
        "The name is misspelled, or the app was destroyed."
        "`gantry app ls` lists the apps; `gantry app create NAME` creates an app."
    AppExists "app_exists" 409
        "An app with this name exists already."
        "Names of apps are unique in a cluster."
        "Choose another name, or use the existing app."
    AppBeingDestroyed "app_being_destroyed" 409
        "The app is being destroyed."
        "`gantry app destroy` was run, and copies of the app still stop."
        "Wait until `gantry app ls` no longer lists the app. Then the name can be used again."
    RenameInProgress "rename_in_progress" 409
        "The app is being renamed."
        "Until the new app serves, or the rename is undone, neither app can be changed."
        "Try again once the rename is over; `gantry events` says when."
    RenameDuringDeploy "rename_during_deploy" 409
        "A deploy of the app is in progress. A rename would start a second deploy."
        "A rename deploys the serving release under the new name."
        "Rename the app once the deploy is over, or take the deploy back with `gantry abort APP`."
    RenameWhilePaused "rename_while_paused" 409
        "The app is paused or in maintenance."
        "A rename ends when the app serves requests under the new name."
        "End the pause or the maintenance first: `gantry resume APP` or `gantry maintenance off APP`."
    FormerNameInUse "former_name_in_use" 409
        "The address of this name leads to another app, which had the name before."
        "A renamed app keeps the former address as a host name."
        "Choose another name, or free the address: `gantry app host APP --rm ADDRESS`."
    NoVolumeFolder "no_volume_folder" 409
        "No folder is free for the volumes of the app."
        "Renamed apps keep the folders of their former names."
        "Choose another name."
    HostTaken "host_taken" 409
        "Another app has this host name."
        "A host name belongs to a single app."
        "Remove the host name from the other app first: `gantry app host APP --rm HOST`."
    HostReserved "host_reserved" 409
        "The host name lies below the cluster's own domain."
        "Gantry assigns the names below the domain by the names of the apps."
        "Choose a host name outside the domain, or name the app accordingly."
    HostNotFound "host_not_found" 404
        "The app does not have this host name."
        "The host name is misspelled, or was removed before."
        "`gantry app show APP` lists the app's host names."
    TooManyHosts "too_many_hosts" 400
        "The app would have too many host names."
        "The number of host names of an app is limited."
        "Remove unused host names."
    NoChange "no_change" 400
        "The request asks for no change."
        "The request has no value to add, remove or set."
        "Name a change."
    InvalidBranch "invalid_branch" 400
        "The name of the branch is invalid."
        "Git does not allow the name, or the name could be read as an option."
        "Use letters, digits, `-`, `_`, `.` and `/`, with a letter or digit at both ends."
    InstanceNotFound "instance_not_found" 404
        "The app has no running instance of this name."
        "The instance ended, was replaced by another release, or never started."
        "`gantry ps APP` lists the instances; `gantry why APP` says why none runs."
    RoleNotFound "role_not_found" 404
        "The app's release does not have the role."
        "The Procfile or app.json of the serving release does not declare the role."
        "Use a role of the message's list, or push a release with the role."
    SingleWriter "single_writer" 409
        "The role cannot have more than a single copy."
        "The role has a volume, which has a single writer, or is `single`."
        "Keep a single copy, or move the data out of the role."
    PlanStale "plan_stale" 409
        "The deploy would differ from the plan."
        "The app, the image or the machines changed after the plan was made."
        "Make a new plan with `--plan`, and apply the new plan."
    GlobalRole "global_role" 409
        "The number of copies of the role cannot be set."
        "The role is `global`: each suitable machine runs a copy."
        "Limit the machines with the role's `placement`, or scale the role to 0."
    TooManyCopies "too_many_copies" 400
        "The number of copies is over the limit."
        "A role has at most 1000 copies."
        "Ask for fewer copies."
    TooManyRoles "too_many_roles" 400
        "Too many roles of the app have a number of copies."
        "Before the first release any role can be scaled, up to a limit."
        "Scale only roles of the app."
    InvalidMaintenanceMessage "invalid_maintenance_message" 400
        "The maintenance message is too long or has several lines."
        "Routers send the message in each response."
        "Write a single line of at most 500 bytes."
    ZeroLimit "zero_limit" 400
        "A limit of 0 would let no request through."
        "`gantry limit` bounds requests. A limit of 0 would stop all requests."
        "`gantry pause APP` lets requests wait, `gantry maintenance on APP --message TEXT` refuses requests."
    InvalidPolicyValue "invalid_policy_value" 400
        "A value cannot be the value of this rule of the cluster policy."
        "Each rule has a kind of value, and bounds. The message states both."
        "Correct the value; `gantry cluster policy get` shows the form of each."
    DomainTaken "domain_taken" 409
        "With this domain, the address of an app would equal a host name of another app."
        "Each address belongs to a single app."
        "Free the address: `gantry app host APP --rm ADDRESS`."
    PolicyRuleNotFound "policy_rule_not_found" 404
        "The cluster policy has no rule of this name."
        "The name is misspelled, or the rule belongs to another version of Gantry."
        "`gantry cluster policy get` lists the rules."
    TooManyProxies "too_many_proxies" 400
        "The list of trusted proxies is too long."
        "Routers compare each connection with the list."
        "Name address ranges instead of single addresses."
}
"Deploys" {
    DeployInProgress "deploy_in_progress" 409
        "Another deploy of the app is in progress, and this push is not built on the commit of the deploy."
        "If both were accepted, the branch would lose the other commit."
        "Wait for the deploy, fetch the deployed commit and push again; or take the deploy back with `gantry abort APP`."
    BranchMoved "branch_moved" 409
        "This push is not built on the newest commit of the branch."
        "Another push reached the branch after your last fetch."
        "Fetch, merge or rebase, and push again."
    DeployNotFound "deploy_not_found" 404
        "The app has no deploy with this number."
        "The number is wrong, or the record of an old deploy was removed."
        "`GET /v1/apps/{app}/deploys` lists the deploys."
    ReleaseNotFound "release_not_found" 404
        "The app has no release with this number."
        "The number is wrong, or the release was removed by garbage collection."
        "`gantry releases APP` lists the releases."
    NoRelease "no_release" 409
        "The app has no release yet."
        "No deploy of the app has succeeded so far."
        "Push a commit, or run `gantry deploy APP --image REF`."
    NoEarlierRelease "no_earlier_release" 409
        "There is no good release to go back to."
        "The app has a single good release, or all earlier releases failed or were removed."
        "`gantry releases APP` lists the releases; deploy a repaired version instead."
    NoHeldDeploy "no_held_deploy" 409
        "No deploy of the app waits for a promotion."
        "The deploy was started without `--hold`, has ended, or has not begun."
        "`gantry app show APP` shows the deploy in progress."
    NoDeployInProgress "no_deploy_in_progress" 409
        "No deploy of the app can be aborted."
        "The last deploy has ended, or is being taken back already."
        "`gantry rollback APP` goes back to an earlier release."
    RollbackInProgress "rollback_in_progress" 409
        "A rollback of the app is in progress."
        "A rollback restores the configuration of the earlier release, and would overwrite the change."
        "Repeat the change once the rollback is over."
    BuildInProgress "build_in_progress" 409
        "A running build may use the base."
        "The build's image needs the base until the build is recorded."
        "Remove the base once the build is over."
}
"Failed deploys" {
    BuildFailed "build_failed" 0
        "The build of the deploy failed."
        "The source, the base or the image is unusable. The message names the part and the cause."
        "Correct the named part, and push again."
    CompileFailed "compile_failed" 0
        "The compile step of the build failed."
        "`container/compile` exited with an error, or reached a limit of time, memory or disk."
        "Read the last lines of the output, correct the script, and push again. The rules `compile-time`, `compile-memory` and `compile-disk` set the limits, as in `gantry cluster policy set compile-time=TIME`."
    InvalidRoles "invalid_roles" 0
        "The repository or image declares no valid roles."
        "`container/roles.json`, the Procfile or another file is missing or has a wrong entry. The message names file and place."
        "Correct the file and push again; `gantry docs apps` describes the entries."
    RequiredValueMissing "required_value_missing" 0
        "The app requires a configuration value that is not set."
        "`app.json` marks the value as required, and the configuration of the app has no such value. The message names the value."
        "Set the value with `gantry config set APP NAME=VALUE`, and deploy again."
    ReleaseStepFailed "release_step_failed" 0
        "The release step of the new release failed."
        "The command of the role `release` exited with an error, or was stopped. The last lines of output follow the message."
        "Correct the command and push again. The old release still serves."
    InstanceExited "instance_exited" 0
        "A process of the new release ended instead of running on."
        "The program failed, a signal killed the program, or the command does not exist. The message has the exit status and the last output."
        "Correct the cause in the message, and deploy again; `gantry logs APP` shows the output."
    InstanceOverLimit "instance_over_limit" 0
        "A process of the new release reached a limit of the role."
        "The role limits memory, processes and disk. The message names the limit."
        "Raise the limit in the role, or let the program use less; then deploy again."
    InstanceNotStarted "instance_not_started" 0
        "An instance of the new release could not be started."
        "The image or a volume cannot be used on the machine, or the machine lacks a resource. The message names the object."
        "Correct the named cause, and deploy again; `gantry status` shows the machine."
    DeployTimeout "deploy_timeout" 0
        "The deploy made no progress in time."
        "A check of the new release keeps failing, a router does not report, or a wait does not end. The message names the condition."
        "Correct the condition and deploy again. `health.start` gives a role more time; `gantry cluster policy set deadline=TIME` sets the time for all apps."
    DeployAborted "deploy_aborted" 0
        "The deploy was aborted."
        "A user ran `gantry abort`; `gantry events APP` names the token."
        "Deploy again later. The old release still serves."
    DeploySuperseded "deploy_superseded" 0
        "A newer deploy replaced this deploy."
        "Of several waiting deploys, only the newest begins."
        "Follow the newer deploy."
    DeployFailed "deploy_failed" 0
        "The deploy failed for a reason without a specific code."
        "The message names the reason."
        "`gantry why APP` shows the reason with the evidence."
}
"Pushes" {
    BranchNotPushed "branch_not_pushed" 0
        "The push does not contain the app's branch."
        "Gantry deploys an app from a single branch. Other branches and tags alone start no deploy."
        "`git push REMOTE HEAD:BRANCH` pushes to the branch; `gantry app branch APP BRANCH` chooses another branch."
    BranchRemoval "branch_removal" 0
        "The push would remove the app's branch."
        "The branch records the serving commit."
        "Push a commit to the branch, or choose another branch with `gantry app branch APP BRANCH` first."
    BranchChanged "branch_changed" 0
        "The app's branch changed while the push was under way."
        "`gantry app branch` was run at the same time."
        "Push again."
    InvalidPushOption "invalid_push_option" 0
        "Gantry does not know an option of the push."
        "`git push -o` accepts `hold` and `wait`."
        "Remove the option."
    PushIncomplete "push_incomplete" 0
        "The source of the push did not arrive completely."
        "The connection broke, the time was over, or the server restarted."
        "Push again."
    PushRejected "push_rejected" 0
        "Git's hook on the server refuses the push."
        "The tree is too large, a name is invalid, or the branch would point to an object other than a commit."
        "Correct the object in the message and push again."
    SourceNotStored "source_not_stored" 0
        "The server cannot store the source of the push."
        "The tree is larger than the limit, or the disk of the server fails or is full."
        "Make the tree smaller; see `gantry status` for the disk."
    DeployUnfollowed "deploy_unfollowed" 0
        "The server stopped reporting the deploy before the deploy ended."
        "The server restarts. The deploy goes on."
        "`gantry status` and `gantry why APP` show the progress."
    GitProtocolUnsupported "git_protocol_unsupported" 400
        "The request is not of git's smart HTTP protocol."
        "The client is very old, or no git client."
        "Use git 2.x and the URL `http://HOST:PORT/git/APP.git`."
    LfsUnsupported "lfs_unsupported" 501
        "Gantry does not serve Git LFS."
        "The repository keeps large files in LFS."
        "Keep the files in the git repository, or name another LFS server in `.lfsconfig`."
}
"Configuration" {
    InvalidVariableName "invalid_variable_name" 400
        "The name cannot be the name of an environment variable."
        "A name begins with a letter or `_`, and has letters, digits, `_`, `.` and `-`."
        "Choose another name."
    ReservedVariable "reserved_variable" 400
        "Gantry sets this variable."
        "Gantry reserves `PORT`, `REVISION` and all names with the prefix `GANTRY_`."
        "Choose another name."
    InvalidVariableValue "invalid_variable_value" 400
        "The value cannot be passed in an environment variable."
        "An environment variable cannot contain a NUL character."
        "Encode the value, for example as Base64."
    ValueTooLong "value_too_long" 400
        "The kernel would not start a process with this value."
        "Linux limits a single variable to 128 KiB, and all variables and arguments together to 2 MiB."
        "Put the value into a file of the image or a volume."
    ConfigTooLarge "config_too_large" 400
        "The configuration of the app is too large."
        "An app has at most 500 values with 256 KiB in all."
        "Unset unused values, or put large values into a file."
}
"Tokens" {
    InvalidTokenName "invalid_token_name" 400
        "The name of the token is invalid."
        "A token's name has 1 to 100 printable characters."
        "Choose another name."
    TokenExists "token_exists" 409
        "A token with this name exists already."
        "The audit trail names tokens. Names of tokens are therefore unique."
        "Choose another name, or revoke the old token first."
    TokenNotFound "token_not_found" 404
        "No token has this name."
        "The name is misspelled, or the token was revoked."
        "`gantry token ls` lists the tokens."
    ZeroLifetime "zero_lifetime" 400
        "The token's lifetime is zero."
        "A token without a lifetime could never be used."
        "Give a lifetime greater than zero, or none for a token without an end."
}
"Bases" {
    BaseNotFound "base_not_found" 404
        "No base has this name."
        "The name is misspelled, or the base was removed."
        "`gantry base ls` lists the bases; `gantry base create NAME --from FILE` creates a base."
    BaseInUse "base_in_use" 409
        "Apps are built on the base."
        "Without the base, the next push of an app would fail."
        "Put the apps on another base: `gantry app base APP OTHER`."
    BaseChanged "base_changed" 409
        "The base was replaced or removed meanwhile."
        "An administrator made, imported or removed the base during the upload of the code."
        "Upload the code again."
    StackNotFound "stack_not_found" 404
        "No stack has this name."
        "The program contains the recipes of a few stacks, and none has this name."
        "`gantry stack ls` lists the stacks. For other packages, make a base with `gantry base create NAME --from FILE`."
    StackNotMade "stack_not_made" 409
        "The stack was not made in this cluster yet."
        "The first use of a stack makes the stack. Only an administrator may make stacks."
        "Run `gantry stack create STACK` as an administrator, and try again."
    StackNameTaken "stack_name_taken" 409
        "A base with the stack's name exists, and was not made as a stack."
        "An operator made, imported or pulled a base of this name. Making the stack would replace the base."
        "Use the base: uploaded code may name any base. Or remove the base first with `gantry base rm BASE`."
    InvalidBaseRecipe "invalid_base_recipe" 400
        "The recipe of the base is invalid."
        "`base.toml` has a wrong or missing entry. The message names the place."
        "Correct the file; `gantry docs apps` describes the entries."
    BaseBuildFailed "base_build_failed" 422
        "The base could not be made."
        "A package is missing, or the mirror cannot be reached. The last lines of output say which."
        "Correct the recipe or the network, and try again."
    BaseImportFailed "base_import_failed" 400
        "The archive cannot be imported as a base."
        "The archive is not an OCI archive, is damaged, or has no image for this platform."
        "Make the archive with `skopeo copy … oci-archive:FILE`."
    BaseUnusable "base_unusable" 422
        "The image cannot be used as a base."
        "The image cannot be read, or the image's environment exceeds the kernel's limit."
        "Use another image."
}
"Images and the registry" {
    InvalidRepository "invalid_repository" 400
        "The name of the repository is invalid."
        "The name of a repository has up to four parts of lower-case letters, digits, dots and hyphens, separated by slashes."
        "Choose another name."
    RepositoryNotFound "repository_not_found" 404
        "The registry does not have the repository."
        "No client pushed an image under this name, and no app has the name."
        "Check the name; `gantry app ls` lists the apps."
    RepositoryFull "repository_full" 409
        "The repository has the largest allowed number of manifests, tags or referrers."
        "The limit protects the store from a client with too many pushes."
        "Remove unused tags and manifests, and push again."
    InvalidImageReference "invalid_image_reference" 400
        "The reference names no image."
        "A reference is `app:tag`, `app@sha256:…` or `registry.example/team/app:tag`."
        "Correct the reference."
    ImageElsewhere "image_elsewhere" 400
        "The image is in another registry."
        "A deploy over the API uses images of this registry."
        "Pull the image first: `POST /v1/apps/{app}/pull`. `gantry deploy APP --image REF` does both."
    ImageNotFound "image_not_found" 404
        "The registry does not have the image."
        "The tag or digest is misspelled, was removed, or belongs to another repository."
        "Push the image again, or list the tags: `GET /v2/APP/tags/list`."
    ImageUnusable "image_unusable" 422
        "The image cannot be used."
        "The image's manifest or configuration is invalid or of an unknown kind."
        "Push the image again with a current tool."
    PlatformMissing "platform_missing" 409
        "The image has no variant for this machine's platform."
        "The index names other architectures only."
        "Build the image for this platform (`docker buildx build --platform …`)."
    PullFailed "pull_failed" 422
        "The image could not be pulled from the other registry."
        "The registry refuses the login, does not have the image, or sent invalid data. The message names the cause."
        "Check the reference and the login (GANTRY_REGISTRY_USER, GANTRY_REGISTRY_PASSWORD)."
    RegistryUnreachable "registry_unreachable" 502
        "The other registry cannot be reached from the server."
        "The registry's name does not resolve, a network fault blocks the connection, or the certificate is not trusted."
        "Check name and network on the server's machine."
    BlobNotFound "blob_not_found" 404
        "The registry does not have the blob."
        "The blob was never pushed, or was removed by garbage collection."
        "Push the image again."
    InvalidDigest "invalid_digest" 400
        "The digest is malformed or missing."
        "A digest is `sha256:` and 64 hexadecimal digits."
        "Correct the digest."
    DigestMismatch "digest_mismatch" 400
        "The data does not match the client's digest."
        "The data changed on the way, or the client computed the digest of other data."
        "Push again."
    InvalidManifest "invalid_manifest" 400
        "The manifest is invalid."
        "The manifest is not JSON of a known kind, or an annotation is too long."
        "Push with a current tool."
    ManifestIncomplete "manifest_incomplete" 400
        "The registry lacks a blob of the manifest."
        "The blob was not pushed, or has another size."
        "Push the blobs before the manifest; the usual tools do."
    InvalidTag "invalid_tag" 400
        "The reference is neither a tag nor a digest."
        "A tag has up to 128 letters, digits, dots, underscores and hyphens."
        "Choose another tag."
    InvalidPageSize "invalid_page_size" 400
        "The parameter `n` is not a number."
        "`n` limits the tags in a response."
        "Send a whole number, or leave `n` out."
    UploadNotFound "upload_not_found" 404
        "The registry does not know this upload."
        "The upload has ended, was idle for an hour, or the server restarted."
        "Begin a new upload."
    UploadOutOfOrder "upload_out_of_order" 416
        "The piece does not continue where the upload stands."
        "A piece was lost or sent twice."
        "Continue at the size in the message."
    UploadTakenOver "upload_taken_over" 409
        "Another request continues this upload."
        "The client lost the connection, and sent a new request."
        "Follow the new request; the old request needs no action."
    TooManyUploads "too_many_uploads" 429
        "Too many uploads are open."
        "The number of open uploads is limited for a repository and for the registry."
        "Try again later, or push with fewer parallel uploads."
    TooManyImageRequests "too_many_image_requests" 429
        "Too many images are being made or fetched."
        "The number of bases, stacks and pulls under way is limited. They go on without their clients."
        "Try again later."
    InvalidVolume "invalid_volume" 400
        "A volume's name or path is invalid."
        "Names follow the rules for names; a path is absolute and not a path of the system."
        "Correct the volume: `--volume NAME:PATH`."
    TooManyVolumes "too_many_volumes" 400
        "The app's images would have too many volumes."
        "The number of volumes of an app's images is limited."
        "Remove unused volumes: `--volume NAME:`."
    VolumePathTaken "volume_path_taken" 400
        "Two volumes would be at the same path."
        "A path holds a single volume."
        "Choose another path, or remove the first volume: `--volume NAME:`. The data stays."
}
"Volumes" {
    VolumeNotFound "volume_not_found" 404
        "The app does not have the volume."
        "The name is misspelled, the volume was removed, or the app's images have no setting for the volume."
        "`gantry volume ls APP` lists the volumes, and `gantry app show APP --json` shows the settings of images."
    VolumeInUse "volume_in_use" 409
        "A container has the volume, or the volume is being copied."
        "A volume has a single writer. Gantry replaces or removes a volume only without readers and writers."
        "Stop the instance with `gantry scale APP ROLE=0`, or wait for the end of the one-off, export or snapshot. The message names the user of the volume."
    VolumeOfRole "volume_of_role" 409
        "A role of the current release names the volume."
        "The next copy of the role would begin with an empty volume."
        "Take the volume out of the role, or remove the volume all the same with `--force`."
    VolumeAmbiguous "volume_ambiguous" 409
        "Several machines have data of the volume, and no instance decides between the machines."
        "A role with a volume ran on several machines in turn, or an archive was imported while a machine was off."
        "Start the role of the volume. The data on the role's machine then counts."
    VolumeNotEmpty "volume_not_empty" 409
        "The volume has content already."
        "An import does not mix an archive with existing files."
        "`--replace` puts the archive in the place of the volume's content."
    VolumeArchiveInvalid "volume_archive_invalid" 400
        "The archive cannot be unpacked as a volume."
        "The file is not a tar archive, is damaged or incomplete, or has an entry outside the volume. The message names the entry."
        "Make the archive with `gantry volume export APP NAME` or with `tar`, and import the new archive. The volume did not change."
    VolumeArchiveTooLarge "volume_archive_too_large" 400
        "The unpacked archive exceeds the limit."
        "The limit is the disk limit of the volume's role."
        "`--limit SIZE` sets another limit. The volume did not change."
    SnapshotNotFound "snapshot_not_found" 404
        "The volume does not have the snapshot."
        "The name is misspelled, or the snapshot was removed."
        "`gantry volume snapshot APP NAME ls` lists the snapshots."
    SnapshotExists "snapshot_exists" 409
        "The volume has a snapshot of this name already."
        "A snapshot is not overwritten."
        "Choose another name, or remove the snapshot first."
    TooManySnapshots "too_many_snapshots" 409
        "The volume has the largest allowed number of snapshots."
        "The number is limited, because each snapshot can take as much space as the volume."
        "Remove a snapshot: `gantry volume snapshot APP NAME rm SNAPSHOT`."
}
"Jobs" {
    InvalidJob "invalid_job" 400
        "A container job is invalid. No job of the request was queued."
        "A setting is out of range, the payload is too large, or the submission has no job or too many. The message names the value."
        "Correct the job. `gantry docs jobs` lists the limits."
    JobNotFound "job_not_found" 404
        "There is no container job of this number."
        "The number is misspelled, or the job ended longer ago than ended jobs are kept: 7 days, unless the rule `job-retention` says otherwise."
        "`gantry job ls` lists the jobs."
    JobEnded "job_ended" 409
        "The job has ended and cannot be cancelled."
        "The job ended before the request arrived."
        "`gantry job show JOB` shows the result."
    JobNotEnded "job_not_ended" 409
        "The job has not ended and cannot be queued again."
        "Only an ended job can be retried by hand."
        "Wait for the job's end, or cancel the job with `gantry job cancel JOB`."
    InvalidMessage "invalid_message" 400
        "A message or a queue of messages is invalid."
        "A number is out of range, a body is empty or too large, or a setting is not supported. The message names the value."
        "Correct the request. `gantry docs howto-ironworker` lists the calls."
    MessageNotFound "message_not_found" 404
        "There is no message of this id in the queue."
        "The message was deleted, has expired, or became a dead letter."
        "Reserve or peek to see the messages of the queue."
    MessageNotReserved "message_not_reserved" 403
        "The message is not reserved under this reservation."
        "The reservation has ended, and another consumer may have the message. A touch makes a new reservation id."
        "Reserve the message again, and touch the message before the timeout."
    MessageQueueNotFound "message_queue_not_found" 404
        "There is no queue of messages of this name."
        "The name is misspelled, or no message was ever posted: the first message makes the queue."
        "Post a message, or create the queue with PUT."
    InvalidSchedule "invalid_schedule" 400
        "A schedule is invalid."
        "The cron expression, the time zone or a number is wrong, or no time ever matches. The message names the value."
        "Correct the schedule. `gantry docs jobs` explains the expressions."
    ScheduleNotFound "schedule_not_found" 404
        "There is no schedule of this name."
        "The name is misspelled, or the schedule was removed."
        "`gantry schedule ls` lists the schedules."
    ScheduleExists "schedule_exists" 409
        "There is a schedule of this name already."
        "A schedule is not overwritten. The schedule of a role has the role's name."
        "Remove the schedule first, or choose another name with --name."
    ScheduleOfRelease "schedule_of_release" 409
        "The schedule belongs to a role of the current release."
        "The app's release declares the schedule."
        "Deploy a release without the role's schedule, or pause the schedule with `gantry schedule pause SCHEDULE`."
    CodeNotFound "code_not_found" 404
        "The app has no uploaded code of this name."
        "The name is misspelled, or the code was removed."
        "`gantry code ls` lists the codes; `gantry code upload APP/CODE PATH --stack STACK` uploads code."
    InvalidCode "invalid_code" 400
        "The upload cannot become a code."
        "The archive is damaged or too large, or has an unsupported name, link or device. The message names the entry."
        "Correct the folder and repeat the upload. `gantry docs jobs` lists the limits."
    NoCodeCommand "no_code_command" 400
        "The command of the uploaded code is not known."
        "No file at the top has the code's name or is a usual main file, and several files, or none, could be run."
        "Name the command: `gantry code upload NAME FOLDER --stack STACK --command 'python3 report.py'`."
    CodeIsRole "code_is_role" 409
        "The app's current release has a role of this name."
        "Jobs name codes and roles alike. The name would be ambiguous."
        "Give the code another name."
    TooManyCodes "too_many_codes" 409
        "The app has the largest allowed number of codes."
        "The number is limited, because each code keeps revisions."
        "Remove a code with `gantry code rm APP/CODE`."
    QueueNotFound "queue_not_found" 404
        "There is no queue of this name."
        "The name is misspelled, or no job of this code was ever queued: the first job makes the queue."
        "`gantry queue ls` lists the queues."
    JobsNeedOneServer "jobs_need_one_server" 409
        "The cluster has several servers, and the queue of container jobs is a file of a single server."
        "Another leader would not know the jobs, and the jobs would never run."
        "Start every server with `--job-store`, and so keep the queue in PostgreSQL (`gantry docs jobs`). Or run container jobs in a cluster with a single server."
    QueueOfOtherCloud "queue_of_other_cloud" 409
        "The PostgreSQL database of the container jobs belongs to another cloud."
        "The setting `job-store` names the database of another cloud, or of this cloud before it was set up again without its backup."
        "Name an empty database in `job-store`. Or give the queue to this cloud: `gantry docs jobs`, section \"The cloud of a queue\"."
    QueueFull "queue_full" 503
        "No more jobs can be queued now."
        "The queue has reached the limit of 2,000,000 waiting or running jobs, or of 10,000 queues."
        "Wait until jobs have ended, or purge a queue with `gantry queue purge QUEUE --confirm QUEUE`."
}
"Keys and locks" {
    KeyNotFound "key_not_found" 404
        "The app has no key of this name."
        "The key was never written, was removed, or ended with the lease."
        "Write the key with `PUT /v1/kv/KEY`."
    InvalidKey "invalid_key" 400
        "A key, a value or a number of the request is not valid."
        "The name is empty or too long, the value is too large, or a parameter is not a number."
        "Correct the request. `gantry docs discovery` lists the limits."
    RevisionConflict "revision_conflict" 409
        "The key was written by another meanwhile."
        "The key's revision differs from the expected revision in the request."
        "Read the key again, decide again, and send the new revision."
    RevisionCompacted "revision_compacted" 410
        "The history no longer has the requested changes."
        "The history is bounded, and is empty after each start of a server."
        "Read the keys again without `wait`, and watch from the revision of the response."
    LockHeld "lock_held" 409
        "Another holder has the lock."
        "The holder did not release the lock within the wait of the request."
        "Wait longer: `gantry lock run APP/NAME --wait DURATION -- COMMAND`, or `wait` in the request. `gantry lock show APP/NAME` shows who holds the lock."
    LockLost "lock_lost" 409
        "The lock of this token is no longer held."
        "The lock was released, or the time to live ended without a renewal."
        "Stop the protected work, and acquire the lock again."
    AppQuotaExceeded "app_quota_exceeded" 507
        "The app has reached a quota of keys, bytes, leases or requests."
        "Quotas protect the space of the other apps."
        "Remove keys, or send fewer requests at once. `gantry docs discovery` lists the limits."
    ContainerUnknown "container_unknown" 403
        "The address belongs to no container of an app."
        "The request comes from a build, or from a container in removal."
        "Only containers of an app have keys and locks."
}
"The server" {
    DiskFull "disk_full" 507
        "The disk of the data folder has too little free space."
        "Gantry keeps a reserve free for the writes of running apps."
        "`gantry status` shows the use of the space. Remove apps, bases, or other files."
    DiskReadOnly "disk_read_only" 503
        "The disk of the data folder is read-only."
        "The kernel makes a file system read-only after an error."
        "`dmesg` shows the kernel's error. Gantry goes on once the disk accepts writes."
    StoreNewer "store_newer" 0
        "A newer Gantry wrote the records in the store."
        "This Gantry does not know the schema version of the records, and changes no record."
        "Start the newer Gantry again. To go back, move the store away and bring back a backup from before the upgrade: `gantry restore FILE`."
    FileNewer "file_newer" 0
        "A newer agent wrote a file of this machine."
        "This agent does not know the schema version of the file. It starts, changes and stops no container."
        "Start the newer Gantry again."
    StoreUnavailable "store_unavailable" 503
        "The store does not take the change."
        "The store cannot be reached, or leadership changed at the same moment. Workloads run on."
        "Try again. `gantry status` names the store; for etcd, check its members."
    LeaderUnreachable "leader_unreachable" 503
        "No leading server can be reached."
        "The leader has ended and no other server leads yet, the store cannot be reached, or this server cannot reach the leader's address."
        "Try again in a few seconds. If the error stays, look at the logs of the servers, and check the network between the servers and to the store."
    LeadershipChanged "leadership_changed" 503
        "The leader ended during the request."
        "The leader was killed, or lost leadership. The change may or may not have taken effect."
        "Look at the state, then try again if the change was not made."
    ServerStopping "server_stopping" 503
        "The server is ending."
        "The server stops or restarts."
        "Try again in a few seconds."
    NoMachine "no_machine" 503
        "No machine has reported to the server."
        "The agent has not started, or cannot reach the server."
        "Check the output of `gantry up` for errors of the agent."
    MachineNotFound "machine_not_found" 404
        "The cluster has no machine of this name."
        "The name is misspelled, or the machine's agent has never connected."
        "`gantry machine ls` lists the machines."
    MachineNameTaken "machine_name_taken" 409
        "Another machine has this name."
        "Two machines have the same host name, or were given the same name with `--machine`."
        "Give either machine another name with `--machine`."
    JoinTokenUnknown "join_token_unknown" 403
        "The cluster does not know the join token."
        "The token is misspelled, belongs to another cluster, or expired long ago."
        "`gantry cluster join-token create --role ROLE` on a server makes another token."
    JoinTokenExpired "join_token_expired" 403
        "The join token has expired."
        "A join token is valid for an hour, unless `--ttl` named another time. A wrong clock of the server also expires the token."
        "`gantry cluster join-token create --role ROLE` on a server makes another token."
    JoinTokenUsed "join_token_used" 403
        "Another machine has joined with this token."
        "A join token is for a single machine. If no administrator of yours used the token, an attacker may have: look at `gantry machine ls`."
        "`gantry cluster join-token create --role ROLE` on a server makes another token."
    JoinTokenRole "join_token_role" 403
        "The join token is for another role."
        "A token for an agent makes no server, and the text of the token was changed."
        "`gantry cluster join-token create --role server` on a server makes a token for a server."
    InvalidJoinToken "invalid_join_token" 0
        "The text is not a join token."
        "A join token begins with `gantry-join-`. A part of the token was lost in copying."
        "Copy the whole command that `gantry server init`, or `gantry cluster join-token create --role ROLE`, printed."
    InvalidIdentity "invalid_identity" 0
        "The machine's identity in the cluster cannot be read."
        "A file in DATA/cluster is damaged or missing, or others may read the key. The message names the file."
        "Repair the file's mode, or run `gantry join SERVER:PORT --token TOKEN` with a new join token. The machine keeps the id and the data."
    InvalidJoinLifetime "invalid_join_lifetime" 400
        "A join token cannot have this lifetime."
        "Join tokens are short-lived: 1 second to 7 days."
        "Name another time with `--ttl`."
    JoinRateLimited "join_rate_limited" 429
        "Too many machines ask to join at the same time."
        "The server answers a few requests to join in each second, as a protection against guessed tokens."
        "Try again with the same token: `gantry join SERVER:PORT --token TOKEN` repeats the request by itself for a minute. Other clients wait for the seconds in the header `Retry-After`."
    NoFreeSubnet "no_free_subnet" 409
        "The cluster's network has no free part for another machine."
        "Each machine gets a separate network for containers."
        "Remove lost machines with `gantry machine rm MACHINE --force`."
    NoAuthority "no_authority" 409
        "This cloud has a single machine, and other machines cannot join."
        "`gantry server init` was not run on the server's machine."
        "Stop `gantry up`, run `gantry server init`, and start `gantry up` again."
    StoreNotShared "store_not_shared" 409
        "The store is a file. Several servers need a shared store."
        "The cloud began on a single machine, with a store in the data folder."
        "Move the store to etcd with `gantry store migrate --to etcd://…`, then create the token."
    AuthorityMismatch "authority_mismatch" 0
        "The server belongs to another cluster than the join token or the hash."
        "The address names another cluster's server, or another host answers in place of the server."
        "Compare the address with the address of the machine where the token or the hash was printed."
    ClockOff "clock_off" 0
        "The clocks of this machine and of the server differ too much."
        "A certificate is valid from an hour before its issue. To a clock further behind, the certificate is not yet valid."
        "Set the clock (`timedatectl set-ntp true`), and try again."
    SshFailed "ssh_failed" 0
        "The machine cannot be reached over ssh."
        "`ssh` is not installed here, the machine does not answer, the host key is not known, or the machine refuses the user's key. The message quotes ssh."
        "Make `ssh root@HOST true` work without a question, then try again. `-o KEY=VALUE` passes an option to ssh."
    WrongArchitecture "wrong_architecture" 0
        "The program is not for the architecture of the machine."
        "`gantry machine add` copies the running program. The program is for the architecture of the machine where the command runs."
        "Name a program for the machine's architecture with `--program FILE`."
    MachineIsMember "machine_is_member" 0
        "The machine belongs to a cluster already."
        "The machine joined before: /var/lib/gantry/cluster has the identity."
        "Start the machine with `gantry up`. To move the machine to another cluster, stop Gantry there, and run `gantry join SERVER:PORT --token TOKEN` with a token of the other cluster."
    ProgramsMissing "programs_missing" 0
        "The machine lacks programs for Gantry."
        "A small system has no git, iproute2, nftables or procps. The message names the missing programs."
        "Install the packages on the machine, then try again."
    RemoteStepFailed "remote_step_failed" 0
        "A step on the other machine failed."
        "The message has the last lines of the step. A code in the lines names the cause: `gantry explain CODE`."
        "Remove the cause on the machine, then repeat the command. The command repeats all steps."
    MachineNotReady "machine_not_ready" 0
        "The machine has joined, but the agent does not report."
        "The service did not start there, or a firewall keeps the machine from the server's port 7000."
        "Look at the log named in the message. Once the agent reports, the machine is a part of the cluster."
    OtherAuthority "other_authority" 409
        "The store belongs to a cluster with another authority."
        "`gantry server init` was run on two machines with the same store."
        "Run `gantry join SERVER:PORT --token TOKEN` with a server's join token on the second machine."
    NotMember "not_member" 403
        "The machine does not belong to the cluster."
        "The machine was removed, another machine joined under the name, or the machine has another key."
        "Run `gantry join SERVER:PORT --token TOKEN` with a new join token. The machine keeps the id and the data."
    MachineRemoved "machine_removed" 403
        "The machine has left the cluster, and is refused."
        "`gantry machine rm` removed the machine, but the agent still connects."
        "Stop the agent. To use the machine again, run `gantry join SERVER:PORT --token TOKEN` with a new join token."
    MachineInUse "machine_in_use" 409
        "The machine has copies of roles and cannot be removed."
        "The machine was not drained, or a copy has nowhere else to go."
        "`gantry machine drain MACHINE` moves the copies away; `gantry machine show MACHINE` names the remaining copies. `gantry machine rm MACHINE --force` removes a lost machine."
    InvalidMachineReason "invalid_machine_reason" 422
        "The reason for a machine's state is too long, or has several lines."
        "A text of several lines was given with `-m`."
        "Write a single line of at most 300 bytes."
    TooManyLabels "too_many_labels" 422
        "A machine would have more than 64 labels."
        "Labels were added and none removed."
        "Remove labels: `gantry machine label MACHINE KEY-`."
    AgentUnreachable "agent_unreachable" 503
        "The machine's agent does not answer."
        "The agent does not run, is overloaded, or has too many waiting sessions."
        "Check the output of `gantry up` on the machine; try again."
    AgentFailed "agent_failed" 502
        "The machine's agent began the work and did not finish."
        "The agent was stopped meanwhile, or is of another version than the server."
        "Look whether the work took place, then try again. `gantry status` names the machines."
    Internal "internal" 500
        "A fault of Gantry, or of the machine below."
        "An operation failed unexpectedly. The message names the operation and the cause."
        "Try again. If the error returns, look at the server's log and report the error."
}
"The server's machine" {
    AddressUnavailable "address_unavailable" 0
        "An address and port cannot be listened on."
        "Another program listens there, or the address belongs to no device of the machine."
        "`ss -ltnp` shows the program. The message names the flag for another address."
    AlreadyRunning "already_running" 0
        "A `gantry up` runs with this data folder."
        "A data folder belongs to a single running `gantry up`."
        "Stop the running cloud with `gantry down`, or name another folder with `--data`."
    WrongDataFolder "wrong_data_folder" 0
        "The data folder belongs to another cloud or machine."
        "The records or containers in the folder belong to another cloud or machine."
        "Name the data folder of `gantry up` (`--data`), or the machine's name (`--machine`)."
    DataFolderOpen "data_folder_open" 0
        "Other users of the machine may read the data folder."
        "The folder holds tokens and configuration values."
        "Close the folder: `chmod 700 DATA`."
    DataFolderMixed "data_folder_mixed" 0
        "The server's files cannot be moved into the server's own folder."
        "A file or folder is in the data folder and in the folder `server`, or is a link or a mount."
        "Stop everything, and follow the message. `gantry up` then moves the rest."
    ServerUserUnusable "server_user_unusable" 0
        "The server cannot run as the system user."
        "The user is root, cannot be made, or may not write the store."
        "Name a user of the machine with `--server-user`. The message has the cause."
    InvalidMachineName "invalid_machine_name" 0
        "The host name cannot become the name of the machine."
        "The host name has no letter or digit before the first dot."
        "Give a name with `--machine`."
    MachineTokenMissing "machine_token_missing" 0
        "The agent or router found no machine token in time."
        "The server creates the token in the data folder at the first start."
        "Start the server first, with the same `--data`."
    ServiceNotStarted "service_not_started" 0
        "A service of `gantry up` cannot be started."
        "The program file is missing, or the machine lacks memory, processes or file descriptors."
        "Correct the system's error in the message, and start again."
    UpgradeRefused "upgrade_refused" 0
        "The new program cannot take over from the running one."
        "The file is not a Gantry program, does not run here, or cannot read the store's format."
        "Install a release for this machine. The running program serves on."
    StopFailed "stop_failed" 0
        "`gantry down` could not stop everything."
        "A container, a control group or `gantry up` does not end. The message names the object."
        "Run `gantry down` again; `dmesg` shows whether the kernel holds a process."
    StopTimeout "stop_timeout" 0
        "`gantry up` did not end in time."
        "`gantry up` waits for running requests, or the disk does not respond."
        "Run `gantry down` again."
    StoreMissing "store_missing" 0
        "There is no store at the path."
        "`gantry up` never ran with this data folder, or the store was moved away."
        "Name the right folder with `--data`; `gantry up` makes a store, `gantry restore FILE` restores a store."
    StoreExists "store_exists" 0
        "The store or database has contents already."
        "A restore, a migration or a move never replaces contents."
        "Move the contents away, or name another destination. The message names the contents."
    StoreUnfinished "store_unfinished" 0
        "The store has only a part of the records."
        "`gantry restore` or `gantry store migrate` copies records into the store, or was interrupted. A server on a part of the records would stop the workloads of the missing records."
        "Wait for the end of the command, or repeat the command if it was interrupted. The message names the source of the records."
    StoreDamaged "store_damaged" 0
        "The store is damaged."
        "The disk returned other bytes than Gantry wrote, or another program changed the file."
        "Move the store away and bring a backup back: `gantry restore FILE`."
    DataDamaged "data_damaged" 0
        "Blobs or repositories of the data folder are damaged or missing."
        "The disk returned other bytes than Gantry wrote, or files were removed. The message names each file and the file's users."
        "Push or deploy the named objects again, or restore a backup."
    InvalidBackup "invalid_backup" 0
        "The file is not a complete backup of Gantry."
        "The file is of another program, of a newer format, or was cut."
        "Use another backup, or a newer Gantry."
    BackupDamaged "backup_damaged" 0
        "Files in the backup are damaged or missing."
        "The backup, or the source data folder of the backup, was damaged."
        "Use another backup, or restore the rest with `gantry restore --skip-damaged FILE`."
    InvalidSnapshot "invalid_snapshot" 0
        "The file is not a complete snapshot of images. No image was loaded."
        "The file is of another program, of a newer format, or was cut or damaged. The message names the part."
        "Copy the file again, or make another snapshot with `gantry snapshot save FILE`."
}
"The command line" {
    InvalidArguments "invalid_arguments" 0
        "The arguments of the command are invalid."
        "An argument is missing, unknown, given twice, or does not fit another argument. The message names the argument."
        "Correct the command; `gantry COMMAND --help` shows arguments and examples."
    FileUnreadable "file_unreadable" 0
        "A file, or standard input, cannot be read."
        "The file is missing, or not readable for you."
        "Check the path and the permissions of the file."
    FileUnwritable "file_unwritable" 0
        "A file or folder cannot be created, changed or removed."
        "The permissions forbid the change, another object has the path, or the disk fails."
        "Correct the system's error for the path in the message, and run the command again."
    VariableNotSet "variable_not_set" 0
        "The app has no configuration value of this name."
        "The name is misspelled, or the value was unset."
        "`gantry config ls APP` lists the values."
    PageNotFound "page_not_found" 0
        "The manual has no page of this name."
        "The name is misspelled, or another version of Gantry has the page."
        "`gantry docs` lists the pages."
    RenameUnfinished "rename_unfinished" 0
        "The app is deployed under the new name, but the records have not moved in time."
        "The store or the server is slow. The rename goes on."
        "`gantry events APP` says when the rename is done."
    ServerUnreachable "server_unreachable" 0
        "The command line cannot connect to the server."
        "`gantry up` does not run, or `--url` (GANTRY_URL) names another address."
        "Start `gantry up`, or name the right server."
    ServerTimeout "server_timeout" 0
        "The server did not answer in time."
        "The server is overloaded, or a firewall drops the packets."
        "Try again; check the machine's load and network."
    UnexpectedResponse "unexpected_response" 0
        "The response does not come from a Gantry server."
        "`--url` names another program, a proxy answered, or the server is of another version."
        "Check the URL; upgrade the older side."
    UrlUnsupported "url_unsupported" 0
        "The URL of the server cannot be used."
        "The authority of the `https://` server is not known to this user, or the URL names no host."
        "Run `gantry login URL --ca-hash HASH` first, or write the URL like `https://m1:7000`."
    InvalidSettings "invalid_settings" 0
        "A settings file cannot be read or has a wrong entry."
        "The message names file, line and column."
        "Correct the entry; `gantry up --help` lists the settings."
    RootRequired "root_required" 0
        "The command needs root."
        "The command makes containers, network devices and control groups."
        "Run the command with sudo."
    SessionFailed "session_failed" 0
        "A session of `gantry exec`, `gantry run` or `gantry volume` could not be opened, or broke."
        "The agent does not answer, the instance has ended, or the command cannot be started. The message tells which."
        "Check the command and `gantry ps`; try again."
    ConnectionLost "connection_lost" 0
        "The connection ended before the result was known."
        "The server, a proxy or the network closed the connection."
        "Check the result of the operation with `gantry status` before you repeat the operation."
    ErrorCodeUnknown "error_code_unknown" 0
        "Gantry has no code of this name."
        "The code is misspelled, or another version of Gantry printed the code."
        "`gantry explain` lists all codes."
}
}
