//! The command of a code: given as text, or found from the files at the top.

/// A file at the top of a code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopFile {
    /// Name of the file.
    pub name: String,
    /// Reports whether the archive marks the file as executable.
    pub executable: bool,
}

/// Programs that run a file, by the file's extension.
const INTERPRETERS: [(&str, &str); 6] =
    [("py", "python3"), ("js", "node"), ("mjs", "node"), ("cjs", "node"), ("rb", "ruby"), ("sh", "/bin/sh")];

/// Names without extension that a main file has, besides the name of the code.
const MAIN: [&str; 4] = ["main", "__main__", "index", "app"];

/// Characters with a meaning to a shell.
const SHELL: &str = "|&;<>()$`\\\"'*?[]#~=%!{}\n";

/// Finds the command of a code: its main file, or its only file that can run. `code` is the name of the code.
#[must_use]
pub fn default_command(code: &str, top: &[TopFile]) -> Option<Vec<String>> {
    let runs: Vec<(&str, Vec<String>)> = top.iter().filter_map(|file| Some((stem(&file.name), run(file)?))).collect();
    let named = |stem_name: &str| runs.iter().find(|(stem, _)| *stem == stem_name);
    let found = std::iter::once(code).chain(MAIN).find_map(named);
    let only = || runs.first().filter(|_| runs.len() == 1);
    found.or_else(only).map(|(_, command)| command.clone())
}

/// The words of a command given as text. A text with characters of a shell is run by `/bin/sh`.
#[must_use]
pub fn words_of(text: &str) -> Vec<String> {
    if text.chars().any(|c| SHELL.contains(c)) {
        return vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
    }
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// The command that runs a file with this name: its interpreter, or the file itself.
#[must_use]
pub fn command_of_file(name: &str) -> Option<Vec<String>> {
    let plain =
        !name.is_empty() && !name.starts_with('/') && !name.contains('\0') && !name.split('/').any(|part| part == "..");
    plain.then(|| interpreted(name).unwrap_or_else(|| vec![format!("/app/{name}")]))
}

/// The command that runs a file.
fn run(file: &TopFile) -> Option<Vec<String>> {
    interpreted(&file.name).or_else(|| file.executable.then(|| vec![format!("/app/{}", file.name)]))
}

/// The interpreter of a file, and the file.
fn interpreted(name: &str) -> Option<Vec<String>> {
    let (_, extension) = name.rsplit_once('.')?;
    let (_, program) = INTERPRETERS.iter().find(|(known, _)| *known == extension)?;
    Some(vec![(*program).to_owned(), name.to_owned()])
}

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}
