//! Manual pages, one for each command, from the same source as the help.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// A manual page.
pub(crate) struct ManPage {
    /// Name of the file: `gantry-app-create.1`.
    pub(crate) file: String,
    /// The page, in roff.
    pub(crate) text: Vec<u8>,
}

/// Renders the page of the program and of each visible command.
pub(crate) fn man_pages() -> std::io::Result<Vec<ManPage>> {
    // The built-in command `help` has no page of its own.
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, "", &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, path: &str, pages: &mut Vec<ManPage>) -> std::io::Result<()> {
    pages.push(page(command, path)?);
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        add_pages(sub, &super::joined(path, sub.get_name()), pages)?;
    }
    Ok(())
}

fn page(command: &Command, path: &str) -> std::io::Result<ManPage> {
    let man = Man::new(command.clone()).source(concat!("Gantry ", env!("CARGO_PKG_VERSION"))).manual("Gantry manual");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut end = Roff::new();
    let examples = if path.is_empty() { super::examples::FIRST.to_vec() } else { super::examples(command, path) };
    verbatim(&mut end, "EXAMPLES", examples);
    let settings = super::settings(command, path);
    if !settings.is_empty() {
        // The first line is the heading that the help has.
        verbatim(&mut end, "SETTINGS", settings.lines().skip(1).map(|line| line.strip_prefix("  ").unwrap_or(line)));
    }
    end.control("SH", ["EXIT STATUS"]);
    end.text([roman("0 done, 1 failed, 2 usage error, 70 timed out. gantry exec and gantry run end with the status of their process.")]);
    end.control("SH", ["SEE ALSO"]);
    let mut see = vec![bold("gantry docs"), roman(" prints the manual; "), bold("gantry explain CODE")];
    see.push(roman(" explains the code of an error or a cause."));
    end.text(see);
    end.to_writer(&mut text)?;
    Ok(ManPage { file: man.get_filename(), text })
}

/// Adds a section whose lines stay as they are.
fn verbatim<'a>(roff: &mut Roff, title: &str, lines: impl IntoIterator<Item = &'a str>) {
    roff.control("SH", [title]).control("nf", []);
    for line in lines {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn each_visible_command_has_a_page_with_its_flags_and_examples() {
        let pages = man_pages().expect("pages");
        let pages: BTreeMap<String, String> =
            pages.into_iter().map(|page| (page.file, String::from_utf8(page.text).expect("text"))).collect();
        // roff writes a minus sign as `\-`, and a plain apostrophe as a string of its own.
        let contains = |file: &str, text: &str| {
            let page = pages.get(file).unwrap_or_else(|| panic!("there is no page {file}"));
            assert!(page.replace("\\-", "-").replace("\\*(Aq", "'").contains(text), "{file} lacks {text:?}:\n{page}");
        };
        let mut count = 1;
        contains("gantry.1", ".SH SUBCOMMANDS");
        super::super::tests::for_each_command(&super::super::command(), "", &mut |command, path| {
            count += 1;
            let file = format!("gantry-{}.1", path.replace(' ', "-"));
            contains(&file, &format!("gantry {path}"));
            for section in [".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES", ".SH \"EXIT STATUS\""] {
                contains(&file, section);
            }
            for example in super::super::examples(command, path) {
                contains(&file, &example.replace('\\', "\\\\"));
            }
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                contains(&file, &format!("--{flag}"));
            }
        });
        assert_eq!(pages.len(), count, "a page without a command");
        assert!(!pages.contains_key("gantry-upgrade-check.1") && !pages.contains_key("gantry-help.1"));
    }
}
