//! `basalt options`: a configuration file with every option, its meaning and its default.

use std::io::{self, Write, stdout};

use crate::config::options::{BACKEND, Kind, OPTIONS};
use crate::error::Result;

/// Prints the file; every assignment is a comment.
pub fn print() -> Result<()> {
    Ok(write(&mut stdout().lock())?)
}

fn write(output: &mut impl Write) -> io::Result<()> {
    writeln!(
        output,
        "# OS_<SECTION>__<OPTION> in the environment replaces a value of this file."
    )?;
    let mut section = "";
    for option in OPTIONS {
        if option.section != section {
            section = option.section;
            writeln!(output, "\n[{section}]")?;
            if section == BACKEND {
                writeln!(
                    output,
                    "# For all backends; a section of a backend's name is for that one."
                )?;
            }
        }
        writeln!(output, "\n# {}{}", option.help, shown_kind(option.kind))?;
        writeln!(output, "#{} = {}", option.name, option.default)?;
    }
    Ok(())
}

fn shown_kind(kind: Kind) -> String {
    match kind {
        Kind::Boolean => " (true or false)".to_owned(),
        Kind::Integer(least, i64::MAX) => format!(" ({least} or more)"),
        Kind::Integer(least, most) => format!(" ({least} to {most})"),
        Kind::Port => " (0 takes a free one)".to_owned(),
        Kind::List => " (separated by commas)".to_owned(),
        Kind::MultiText => " (may be given several times)".to_owned(),
        Kind::Choice(choices) => format!(" ({})", choices.join(", ")),
        Kind::Text | Kind::Secret | Kind::Number => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_file_is_a_configuration_without_surprises() {
        let mut text = Vec::new();
        write(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        // What has a default may be set to it.
        let set = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.ends_with("= ") => rest.to_owned(),
            _ => line.to_owned(),
        };
        let uncommented: Vec<_> = text.lines().map(set).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), uncommented.join("\n")).unwrap();
        let config = Config::load(&[file.path().to_owned()], []).unwrap();
        assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    }
}
