//! Columns for a terminal.

use std::io::{self, Write};

/// Prints the rows under the headings, each column as wide as its widest cell.
pub fn print<const COLUMNS: usize>(
    output: &mut impl Write,
    headings: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) -> io::Result<()> {
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        let heading = headings
            .get(column)
            .map_or(0, |heading| heading.chars().count());
        cells.chain([heading]).max().unwrap_or_default()
    });
    line(output, &headings, &widths)?;
    for row in rows {
        line(output, row, &widths)?;
    }
    Ok(())
}

fn line<S: AsRef<str>>(output: &mut impl Write, cells: &[S], widths: &[usize]) -> io::Result<()> {
    let padded = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{:<width$}", cell.as_ref()));
    let text = padded.collect::<Vec<_>>().join("  ");
    writeln!(output, "{}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut output = Vec::new();
        let rows = [
            ["1".to_owned(), "ü".to_owned()],
            ["22222".to_owned(), String::new()],
        ];
        print(&mut output, ["ID", "NAME"], &rows).unwrap();
        assert_eq!(
            String::from_utf8(output).unwrap(),
            "ID     NAME\n1      ü\n22222\n"
        );
    }
}
