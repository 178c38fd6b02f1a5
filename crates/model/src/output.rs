//! Picks the line of a program's last output that explains its exit best.
//!
//! The last line is often a poor choice: npm and yarn print the path of their own log, and languages print stack
//! frames.

/// Words that mark a line as a failure, in lower case.
const FAILURE_WORDS: [&str; 28] = [
    "error",
    "exception",
    "fatal",
    "panic",
    "cannot",
    "can't",
    "could not",
    "couldn't",
    "failed",
    "failure",
    "denied",
    "not found",
    "no such",
    "refused",
    "undefined",
    "missing",
    "invalid",
    "unable",
    "abort",
    "unbound",
    "not set",
    "segmentation",
    "assert",
    "killed",
    "not permitted",
    "timed out",
    "no space",
    "out of memory",
];

/// Beginnings of lines that runners print after the program's own last words, in lower case.
const RUNNER_WORDS: [&str; 14] = [
    "npm err!",
    "npm error",
    "npm warn",
    "npm notice",
    "info visit https://yarnpkg.com",
    "error command failed with exit code",
    "error: command failed with exit code",
    "error: script ",
    "elifecycle",
    "exit status ",
    "note: run with `rust_backtrace",
    "rake aborted!",
    "make: ***",
    "(see full trace by running",
];

/// Beginnings of lines that belong to a stack trace or to a runner's notice, in lower case.
const FRAMES: [&str; 11] = [
    "at ",
    "from ",
    "file \"",
    "traceback (most recent call last)",
    "goroutine ",
    "stack backtrace:",
    "require stack:",
    "node.js v",
    "... ",
    "a complete log of this run can be found",
    "tasks: top",
];

/// Parts of lines that runners print after the program's own last words, in lower case.
const RUNNER_PARTS: [&str; 4] =
    ["a complete log of this run", "worker failed to boot", "worker (pid:", "shutting down: master"];

/// Relevance of a line to a failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LineValue {
    Nothing,
    Runner,
    Plain,
    Failure,
}

fn worth(line: &str) -> LineValue {
    let lower = line.trim().to_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| lower.starts_with(word));
    if !lower.chars().any(char::is_alphanumeric) || begins(&FRAMES) {
        LineValue::Nothing
    } else if begins(&RUNNER_WORDS) || RUNNER_PARTS.iter().any(|part| lower.contains(part)) {
        LineValue::Runner
    } else if FAILURE_WORDS.iter().any(|word| lower.contains(word)) {
        LineValue::Failure
    } else {
        LineValue::Plain
    }
}

/// Returns the line that explains the program's exit best: the last line about a failure, else the last line. Returns
/// `None` for a program that printed nothing.
#[must_use]
pub fn explaining_line(lines: &[String]) -> Option<String> {
    let best = lines.iter().map(|line| worth(line)).max().filter(|worth| *worth > LineValue::Nothing)?;
    let at = lines.iter().rposition(|line| worth(line) == best)?;
    let line = lines[at].trim();
    // Rust prints the message of a panic on the line after its location.
    let message = lines.get(at + 1).filter(|_| line.contains("panicked at") && line.ends_with(':'));
    Some(match message {
        Some(message) => format!("{line} {}", message.trim()),
        None => line.to_owned(),
    })
}

/// Longest excerpt of a line that is shown inside another line, in characters.
pub const LINE_SHOWN: usize = 160;

/// Makes a text fit to stand inside another line: trims it, removes control characters, and cuts it to [`LINE_SHOWN`].
/// The last character of a text that was cut is `…`.
#[must_use]
pub fn within_a_line(text: &str) -> String {
    let mut rest = text.trim().chars().filter(|c| !c.is_control());
    let mut shown: String = rest.by_ref().take(LINE_SHOWN).collect();
    if rest.next().is_some() {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// Returns the first line of a response body that holds text; for an HTML page, its title or first heading.
#[must_use]
pub fn first_words(body: &str) -> String {
    let lower = body.to_ascii_lowercase();
    let between = |tag: &str| {
        let begin = lower.find(&format!("<{tag}"))?;
        let begin = begin + lower[begin..].find('>')? + 1;
        let end = begin + lower[begin..].find(&format!("</{tag}"))?;
        Some(within_a_line(&body[begin..end].replace('\n', " "))).filter(|text| !text.is_empty())
    };
    let page = lower.trim_start().starts_with('<').then(|| between("title").or_else(|| between("h1"))).flatten();
    page.unwrap_or_else(|| body.lines().map(within_a_line).find(|line| !line.is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explaining(lines: &[&str]) -> String {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        explaining_line(&lines).unwrap_or_default()
    }

    #[test]
    fn picks_the_line_that_explains_the_failure() {
        for (lines, expected) in [
            (&["ready", "bye"][..], "bye"),
            (&["", "  "], ""),
            (&["FATAL: no database", "shutting down"], "FATAL: no database"),
            (
                &[
                    "Error: connect ECONNREFUSED 10.0.0.7:5432",
                    "    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1495:16)",
                    "npm ERR! code ELIFECYCLE",
                    "npm ERR! A complete log of this run can be found in:",
                    "npm ERR!     /app/.npm/_logs/2026-11-28T10_00_00_000Z-debug-0.log",
                ],
                "Error: connect ECONNREFUSED 10.0.0.7:5432",
            ),
            (&["boot", "npm error A complete log of this run can be found in: /app/.npm/x.log"], "boot"),
            (
                &["npm ERR! missing script: start", "", "npm ERR! A complete log of this run can be found in:"],
                "npm ERR! A complete log of this run can be found in:",
            ),
            (
                &[
                    "Traceback (most recent call last):",
                    "  File \"/app/s.py\", line 4, in <module>",
                    "KeyError: 'DATABASE_URL'",
                ],
                "KeyError: 'DATABASE_URL'",
            ),
            (
                &[
                    "[2026-11-30 10:00:00 +0000] [8] [ERROR] Exception in worker process",
                    "Traceback (most recent call last):",
                    "  File \"/app/shop.py\", line 1, in <module>",
                    "ModuleNotFoundError: No module named 'psycopg'",
                    "[2026-11-30 10:00:00 +0000] [8] [INFO] Worker exiting (pid: 8)",
                    "[2026-11-30 10:00:00 +0000] [1] [ERROR] Worker (pid:8) exited with code 3",
                    "[2026-11-30 10:00:00 +0000] [1] [ERROR] Shutting down: Master",
                    "[2026-11-30 10:00:00 +0000] [1] [ERROR] Reason: Worker failed to boot.",
                ],
                "ModuleNotFoundError: No module named 'psycopg'",
            ),
            (
                &["s.rb:3:in `<main>': undefined method `x' for nil (NoMethodError)", "\tfrom s.rb:9:in `main'"],
                "s.rb:3:in `<main>': undefined method `x' for nil (NoMethodError)",
            ),
            (
                &[
                    "panic: runtime error: index out of range",
                    "",
                    "goroutine 1 [running]:",
                    "main.main()",
                    "\t/app/main.go:5 +0x1d",
                    "exit status 2",
                ],
                "panic: runtime error: index out of range",
            ),
            (
                &[
                    "thread 'main' panicked at src/main.rs:2:5:",
                    "no route to the queue",
                    "note: run with `RUST_BACKTRACE=1` environment variable",
                ],
                "thread 'main' panicked at src/main.rs:2:5: no route to the queue",
            ),
            (
                &[
                    "Exception in thread \"main\" java.lang.IllegalStateException: x",
                    "\tat App.main(App.java:3)",
                    "Caused by: java.io.IOException: no route",
                    "\t... 1 more",
                ],
                "Caused by: java.io.IOException: no route",
            ),
        ] {
            assert_eq!(explaining(lines), expected);
        }
    }

    #[test]
    fn finds_the_first_text_or_the_title_of_a_body() {
        for (body, expected) in [
            ("database is gone\nmore", "database is gone"),
            ("\n\n  sick: no database\r\n", "sick: no database"),
            ("<!DOCTYPE html>\n<html><head><title>Page\nnot found</title></head>", "Page not found"),
            ("<html><body><h1 class=\"x\">Bad Gateway</h1>", "Bad Gateway"),
            ("<html>", "<html>"),
            ("\u{1b}[31mred", "[31mred"),
            ("", ""),
        ] {
            assert_eq!(first_words(body), expected);
        }
        assert_eq!(first_words(&"x".repeat(1000)).chars().count(), LINE_SHOWN);
    }

    #[test]
    fn marks_truncated_text() {
        let whole = "x".repeat(LINE_SHOWN);
        assert_eq!(within_a_line(&format!(" {whole}\r\n")), whole);
        assert_eq!(within_a_line(&format!("{whole}y")), format!("{}…", &whole[1..]));
    }
}
