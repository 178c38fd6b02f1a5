//! Choice of the ref of a push that deploys, and the options of a push.

use gantry_api::ErrorCode;
use gantry_git::hook::{OTHERS_MAX, PushReport, RefUpdate};
use gantry_model::AppName;

/// Reason why a push deploys nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetError {
    #[error("{0:?} is not an option of a push; use `git push -o hold` or `git push -o wait`")]
    UnknownOption(String),
    #[error("{app} is deployed from {branch} from now on; push again")]
    BranchChanged { app: AppName, branch: String },
    #[error("{app} is deployed from {branch}, so {branch} cannot be removed; push a commit to it")]
    Removal { app: AppName, branch: String },
    #[error("{app} is deployed from {branch} alone; push that: git push … HEAD:{branch}")]
    OtherBranch { app: AppName, branch: String },
}

impl TargetError {
    /// Returns the stable code.
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownOption(_) => ErrorCode::InvalidPushOption,
            Self::BranchChanged { .. } => ErrorCode::BranchChanged,
            Self::Removal { .. } => ErrorCode::BranchRemoval,
            Self::OtherBranch { .. } => ErrorCode::BranchNotPushed,
        }
    }
}

/// Options of a push, from `git push -o`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PushOptions {
    /// Stop before promotion, so that the deploy is held.
    pub(super) hold: bool,
    /// Wait until the bake time is over.
    pub(super) wait: bool,
}

impl PushOptions {
    pub(super) fn parse(options: &[String]) -> Result<Self, TargetError> {
        let mut parsed = Self::default();
        for option in options {
            match option.as_str() {
                "hold" => parsed.hold = true,
                "wait" => parsed.wait = true,
                unknown => return Err(TargetError::UnknownOption(unknown.chars().take(40).collect())),
            }
        }
        Ok(parsed)
    }
}

/// Deploy target of a push: the app and its branch.
pub(super) struct DeployTarget<'a> {
    pub(super) app: &'a AppName,
    pub(super) branch: String,
    /// True if a release of the app serves already.
    pub(super) serves: bool,
}

impl DeployTarget<'_> {
    /// Returns the update of the app's branch. Returns `None` for other refs alone where the user may well mean that:
    /// `--tags`, and `--all` and `--mirror` while the branch is up to date. Refuses any other push without the branch.
    pub(super) fn update<'p>(&self, pushed: &'p PushReport) -> Result<Option<&'p RefUpdate>, TargetError> {
        let (app, branch) = (self.app.clone(), self.branch.clone());
        if pushed.branch != branch {
            return Err(TargetError::BranchChanged { app, branch });
        }
        let branch_ref = format!("refs/heads/{branch}");
        let is_hash = |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match pushed.updates.iter().find(|update| update.name == branch_ref) {
            Some(update) if is_hash(&update.new) && update.new.bytes().any(|byte| byte != b'0') => Ok(Some(update)),
            Some(_) => Err(TargetError::Removal { app, branch }),
            None if pushed.others > 0 && (pushed.branches == 0 || pushed.branches > 1 && self.serves) => Ok(None),
            None => Err(TargetError::OtherBranch { app, branch }),
        }
    }

    /// Returns a line about the refs that are pushed beside the branch and passed over.
    pub(super) fn passed_over(&self, pushed: &PushReport) -> Option<String> {
        let branch_ref = format!("refs/heads/{}", self.branch);
        let others = pushed.updates.iter().filter(|update| update.name != branch_ref).take(NAMED);
        let named: Vec<String> = others.map(|update| printable_ref(&update.name)).collect();
        let more = match pushed.others - named.len().min(pushed.others) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (app, branch) = (self.app, &self.branch);
        (!named.is_empty())
            .then(|| format!("Passed over: {}{more}; {app} is deployed from {branch} alone", named.join(", ")))
    }
}

/// Maximum number of refs that this line names.
const NAMED: usize = 5;
const _: () = assert!(NAMED <= OTHERS_MAX);

/// Renders a ref as people call it, without control characters: git has not checked the name yet.
fn printable_ref(name: &str) -> String {
    let plain = match (name.strip_prefix("refs/heads/"), name.strip_prefix("refs/tags/")) {
        (Some(branch), _) => format!("branch {branch}"),
        (_, Some(tag)) => format!("tag {tag}"),
        _ => name.to_owned(),
    };
    plain.chars().filter(|c| !c.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_hold_and_wait_and_refuses_other_options() {
        let parse = |options: &[&str]| PushOptions::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>());
        let expected = |hold, wait| Ok(PushOptions { hold, wait });
        assert_eq!((parse(&[]), parse(&["hold"])), (expected(false, false), expected(true, false)));
        assert_eq!((parse(&["wait"]), parse(&["wait", "hold", "wait"])), (expected(false, true), expected(true, true)));
        let error = parse(&["hold", "\x1b[2J--upload-pack"]).expect_err("refused").to_string();
        assert!(error.contains("-o hold") && error.contains("-o wait") && !error.contains('\x1b'), "{error}");
    }

    fn pushed(refs: &[(&str, &str)]) -> PushReport {
        let updates: Vec<RefUpdate> = refs
            .iter()
            .map(|(name, new)| RefUpdate { old: "0".repeat(40), new: new.repeat(40), name: (*name).into() })
            .collect();
        let others = updates.iter().filter(|update| update.name != "refs/heads/main");
        PushReport {
            push: String::new(),
            branch: "main".to_owned(),
            others: others.clone().count(),
            branches: others.filter(|update| update.name.starts_with("refs/heads/")).count(),
            updates,
            options: Vec::new(),
        }
    }

    #[test]
    fn deploys_the_branch_and_names_the_other_refs() {
        let app = AppName::parse("shop").expect("a name");
        let target = |serves| DeployTarget { app: &app, branch: "main".to_owned(), serves };
        let main = ("refs/heads/main", "a");
        let others = [("refs/tags/v1", "b"), ("refs/heads/x", "c"), ("refs/notes/\x1bn", "d"), ("refs/heads/y", "0")];
        let all = [&[main][..], &others].concat();
        for refs in [&all[..1], &all[..2], &all] {
            let pushed = pushed(refs);
            let update = target(false).update(&pushed).expect("taken").expect("the branch");
            assert_eq!(update.name, "refs/heads/main");
        }
        let told = target(true).passed_over(&pushed(&all));
        let expected = "Passed over: tag v1, branch x, refs/notes/n, branch y; shop is deployed from main alone";
        assert_eq!(told.as_deref(), Some(expected));
        assert_eq!(target(true).passed_over(&pushed(&[main])), None);
        let many: Vec<String> = (0..20).map(|number| format!("refs/tags/v{number}")).collect();
        let mut many = pushed(&many.iter().map(|name| (name.as_str(), "b")).collect::<Vec<_>>());
        many.others = 1000;
        let told = target(true).passed_over(&many).expect("told");
        assert!(told.contains("tag v4 and 995 more;"), "{told}");
    }

    #[test]
    fn refuses_other_branches_and_passes_over_tags() {
        let app = AppName::parse("shop").expect("a name");
        let target = |serves| DeployTarget { app: &app, branch: "main".to_owned(), serves };
        let (tag, x, y) = (("refs/tags/main", "a"), ("refs/heads/x", "a"), ("refs/heads/y", "a"));
        for (refs, serves, passed) in [
            (&[tag][..], false, true),
            (&[tag, ("refs/tags/v2", "a")], true, true),
            (&[x, y], true, true),
            (&[x, y, tag], true, true),
            (&[x, y], false, false),
            (&[x], true, false),
            (&[x, tag], true, false),
            (&[], true, false),
        ] {
            let pushed = pushed(refs);
            match target(serves).update(&pushed) {
                Ok(None) => assert!(passed, "{refs:?}"),
                Err(error) => assert!(!passed && error.to_string().contains("HEAD:main"), "{refs:?}: {error}"),
                Ok(Some(update)) => panic!("{update:?}"),
            }
        }
        for bad in ["0", "-"] {
            let error = target(true).update(&pushed(&[("refs/heads/main", bad), x])).expect_err("refused");
            assert!(matches!(error, TargetError::Removal { .. }), "{error}");
        }
        let other = DeployTarget { app: &app, branch: "live".to_owned(), serves: true };
        let error = other.update(&pushed(&[("refs/heads/main", "a")])).expect_err("refused");
        assert!(error.to_string().contains("live"), "{error}");
    }
}
