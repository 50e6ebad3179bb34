//! Tables in the two styles that operators know: columns padded with blanks, and boxes of `+`, `-` and `|`.

/// Columns padded as Go's tabwriter does with a minimum of five and a padding of three: every cell, the last one too.
/// One blank line follows the table.
///
/// ```
/// use calico_bins::ctl::table::columns;
/// let rows = [vec!["ippool-name1".to_string(), "10.0.1.0/24".to_string()]];
/// assert_eq!(columns(&["NAME", "CIDR"], &rows), "NAME           CIDR          \nippool-name1   10.0.1.0/24   \n\n");
/// ```
pub fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = widths(headings, rows).into_iter().map(|width| (width + 3).max(5)).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push('\n');
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out.push('\n');
    out
}

/// Which side the cells of a column lean to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A box with upper-case headings and one blank of padding.
///
/// ```
/// use calico_bins::ctl::table::{Align, boxed};
/// let text = boxed(&[("Peer", Align::Left), ("n", Align::Right)], &[vec!["x".into(), "12".into()]]);
/// assert_eq!(text, "+------+----+\n| PEER | N  |\n+------+----+\n| x    | 12 |\n+------+----+\n");
/// ```
pub fn boxed(headings: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let titles: Vec<String> = headings.iter().map(|(title, _)| title.to_uppercase()).collect();
    let names: Vec<&str> = titles.iter().map(String::as_str).collect();
    let widths = widths(&names, rows);
    let mut rule = String::from("+");
    for width in &widths {
        rule.extend(std::iter::repeat_n('-', width + 2));
        rule.push('+');
    }
    rule.push('\n');
    let mut out = rule.clone();
    let left = std::iter::repeat_n(Align::Left, names.len()).collect::<Vec<_>>();
    push_boxed(&mut out, &mut names.iter().copied().zip(left), &widths);
    out.push_str(&rule);
    for row in rows {
        let aligned = row.iter().map(String::as_str).zip(headings.iter().map(|(_, align)| *align));
        push_boxed(&mut out, &mut aligned.into_iter(), &widths);
    }
    if !rows.is_empty() {
        out.push_str(&rule);
    }
    out
}

fn push_boxed(out: &mut String, cells: &mut dyn Iterator<Item = (&str, Align)>, widths: &[usize]) {
    out.push('|');
    for ((cell, align), width) in cells.zip(widths) {
        let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
        match align {
            Align::Left => out.push_str(&format!(" {cell}{blanks} |")),
            Align::Right => out.push_str(&format!(" {blanks}{cell} |")),
        }
    }
    out.push('\n');
}

fn widths(headings: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    widths
}

/// A number as Go prints it with `%v`: the shortest digits that read back the same, with an exponent when the number is
/// tiny or has seven places or more before the point.
///
/// ```
/// use calico_bins::ctl::table::shortest;
/// assert_eq!([shortest(1000.0), shortest(1e6), shortest(1e7), shortest(10.5)], ["1000", "1e+06", "1e+07", "10.5"]);
/// ```
pub fn shortest(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{number}")
}

/// A list joined with commas, cut to `limit` characters with `...` at the end.
///
/// ```
/// use calico_bins::ctl::table::join_and_truncate;
/// assert_eq!(join_and_truncate(["12345", "67890"], 6), "123...");
/// assert_eq!(join_and_truncate(["123456"], 6), "123456");
/// assert_eq!(join_and_truncate(["123=4567"], 3), "...");
/// ```
pub fn join_and_truncate<'a>(parts: impl IntoIterator<Item = &'a str>, limit: usize) -> String {
    let joined = parts.into_iter().collect::<Vec<_>>().join(",");
    if joined.chars().count() <= limit {
        return joined;
    }
    let mut out: String = joined.chars().take(limit.saturating_sub(3)).collect();
    out.push_str("...");
    out
}
