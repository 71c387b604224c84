//! The page around the plots: a title, sections, tables, one sheet of styles.

use crate::svg::escape;
use std::fmt::Write;

/// A picture: an `svg` element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot(pub(crate) String);

/// What a plot was drawn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Self {
        Table { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// `title` is already markup.
    fn render(&self, title: &str) -> String {
        let mut out = format!(
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Table: {title}\"><table>\n<thead><tr>"
        );
        for cell in &self.head {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(cell));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                let (tag, scope) = if index == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
                // Numbers stand under each other.
                let number = cell.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
                let class = match cell {
                    _ if index > 0 && number => " class=\"n\"",
                    long if long.chars().count() > 60 => " class=\"t\"",
                    _ => "",
                };
                let _ = write!(out, "<{tag}{scope}{class}>{}</{tag}>", escape(cell));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out
    }
}

/// A page in the making.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// `about` is what the page is of: model, machine, when.
    pub fn new(title: &str, about: &str) -> Self {
        let body = format!("<h1>{}</h1>\n<p class=\"about\">{}</p>\n", escape(title), escape(about));
        Page { title: title.into(), body }
    }

    /// A plot with the sentence that says how to read it, and the table behind it.
    pub fn plot(&mut self, title: &str, how: &str, plot: &Plot, table: &Table) {
        let (title, how) = (escape(title), escape(how));
        let _ = write!(
            self.body,
            "<section>\n<h2>{title}</h2>\n<p>{how}</p>\n<figure class=\"wide\" tabindex=\"0\" role=\"group\" aria-label=\"{title}\">\n{}</figure>\n<details><summary>The numbers</summary>\n{}</details>\n</section>\n",
            plot.0,
            table.render(&title)
        );
    }

    /// A table that needs no picture.
    pub fn table(&mut self, title: &str, how: &str, table: &Table) {
        let (title, how) = (escape(title), escape(how));
        let _ = write!(
            self.body,
            "<section>\n<h2>{title}</h2>\n<p>{how}</p>\n{}</section>\n",
            table.render(&title)
        );
    }

    pub fn note(&mut self, text: &str) {
        let _ = writeln!(self.body, "<p class=\"note\">{}</p>", escape(text));
    }

    pub fn render(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escape(&self.title),
            self.body
        )
    }
}

const STYLE: &str = include_str!("style.css");
