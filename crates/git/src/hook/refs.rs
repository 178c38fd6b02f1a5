//! Refs and their names, as git passes them to the hooks.

use super::RefUpdate;

/// Parses a line of a hook's input: old commit, new commit, name.
pub(crate) fn parse_update(line: &str) -> Option<RefUpdate> {
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    Some(RefUpdate { old: words.next()?, new: words.next()?, name: words.next()? })
}

/// Separates the branch's update from those of all other refs.
pub(super) fn split(updates: Vec<RefUpdate>, branch: &str) -> (Option<RefUpdate>, Vec<RefUpdate>) {
    let name = branch_ref(branch);
    let (mut own, others): (Vec<RefUpdate>, Vec<RefUpdate>) =
        updates.into_iter().partition(|update| update.name == name);
    (own.pop(), others)
}

/// Returns the full name of a branch.
pub(super) fn branch_ref(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

/// Recognizes a full hash other than the zeros that stand for a removal. An option of git never matches.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0')
}

/// Recognizes a ref's name that git allows (git-check-ref-format(1)).
pub(super) fn is_ref_name(name: &str) -> bool {
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.starts_with("refs/")
        && name.split('/').all(part)
        && !name.contains(odd)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separates_the_branch_from_the_other_refs() {
        let named = |name: &str| RefUpdate { old: "0".repeat(40), new: "a".repeat(40), name: name.to_owned() };
        let pushed = ["refs/tags/main", "refs/heads/main", "refs/heads/main/x"].map(named).to_vec();
        let (own, others) = split(pushed, "main");
        assert_eq!(own.map(|update| update.name).as_deref(), Some("refs/heads/main"));
        let others: Vec<String> = others.into_iter().map(|update| update.name).collect();
        assert_eq!(others, ["refs/tags/main", "refs/heads/main/x"]);
        assert!(split(vec![named("refs/tags/main")], "main").0.is_none());
    }

    #[test]
    fn recognizes_ref_names_as_git_does() {
        for good in ["refs/heads/main", "refs/tags/v1.0", "refs/heads/a/b-c_d", "refs/notes/x", "refs/heads/-x"] {
            assert!(is_ref_name(good), "{good}");
        }
        for bad in [
            "HEAD",
            "config",
            "../config",
            "-o",
            "",
            "refs/heads/",
            "refs//heads/x",
            "/refs/heads/x",
            "refs/heads/a..b",
            "refs/heads/../x",
            "refs/heads/.x",
            "refs/heads/x.lock",
            "refs/heads/x.",
            "refs/heads/a b",
            "refs/heads/~",
            "refs/heads/@{1}",
            "refs/heads/\u{1b}[2J",
            "refs/heads/a\\b",
            "refs/heads/x\u{7f}",
        ] {
            assert!(!is_ref_name(bad), "{bad:?}");
        }
    }
}
