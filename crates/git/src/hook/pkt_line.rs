//! Git's pkt-lines (gitprotocol-common(5)), which `proc-receive` speaks.

use std::io::{self, Read, Write};

/// Reads the pkt-lines up to the next flush.
pub(crate) fn read_lines(input: &mut impl Read) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let wrong = || io::Error::other("not a pkt-line");
        let text = std::str::from_utf8(&length).map_err(|_| wrong())?;
        match usize::from_str_radix(text, 16).map_err(|_| wrong())? {
            0 => return Ok(lines),
            length @ 4..=65_520 => {
                let mut line = vec![0; length - 4];
                input.read_exact(&mut line)?;
                let line = String::from_utf8_lossy(&line);
                lines.push(line.trim_end_matches('\n').to_owned());
            }
            _ => return Err(wrong()),
        }
    }
}

/// Writes one pkt-line.
pub(super) fn write_line(output: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(output, "{:04x}{text}", text.len() + 5)
}

/// Ends a list of pkt-lines.
pub(super) fn write_flush(output: &mut impl Write) -> io::Result<()> {
    output.write_all(b"0000")?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lines_and_refuses_malformed_ones() {
        let mut text = Vec::new();
        write_line(&mut text, "ok refs/heads/main").expect("written");
        write_flush(&mut text).expect("written");
        text.extend_from_slice(b"rest");
        assert_eq!(read_lines(&mut &text[..]).expect("lines"), ["ok refs/heads/main"]);
        for bad in [&b"0001"[..], b"fffff", b"zzzz", b"0009ab", b"\xff\xff\xff\xff", b""] {
            assert!(read_lines(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
