//! What every page and plot must hold, whatever is drawn.

use crate::bars::{Against, Bar, bars, parts};
use crate::heat::heat;
use crate::lines::{Axes, Line, columns, lines};
use crate::{Diagram, Page, Scale, Table, short};

const HOSTILE: &str = "<script>alert(\"1\")</script> & more";

fn axes(scale: Scale) -> Axes<'static> {
    Axes { x: "position", y: "distance", scale }
}

/// A page with every kind of plot and a hostile name everywhere.
fn page() -> String {
    let mut page = Page::new(HOSTILE, HOSTILE);
    let mut table = Table::new(["name", HOSTILE]);
    table.row([HOSTILE, "1.5"]);
    let bar = Bar {
        group: HOSTILE.into(),
        label: HOSTILE.into(),
        value: 3.0,
        interval: Some((2.0, 4.0)),
        samples: vec![2.5, 3.5],
        ..Bar::default()
    };
    page.plot(HOSTILE, HOSTILE, &bars(HOSTILE, "t/s", Against::One, Some((5.0, HOSTILE)), &[bar]), &table);
    let shares = [(HOSTILE.to_string(), vec![0.25, 0.5, 0.25])];
    page.plot("parts", "", &parts(HOSTILE, &["-1", HOSTILE, "+1"], &shares), &table);
    let line = Line { name: HOSTILE.into(), points: vec![(0.0, 0.0), (1.0, 1e-3)] };
    page.plot("lines", "", &lines(HOSTILE, axes(Scale::Log), Some((1e-2, HOSTILE)), &[line]), &table);
    page.plot("columns", "", &columns(HOSTILE, axes(Scale::Linear), &[(HOSTILE.into(), 1.0)]), &table);
    let cells = [vec![Some(0.0), None, Some(f64::NAN)]];
    let names = ["0", "1", "2"].map(String::from);
    let steps = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
    page.plot("heat", "", &heat(HOSTILE, ("layer", &names), &[HOSTILE.into()], &cells, steps), &table);
    page.table(HOSTILE, HOSTILE, &table);
    page.note(HOSTILE);
    page.render()
}

/// Names of the elements of a document, opened and closed in order; panics where they do not fit.
fn well_formed(text: &str) -> Vec<String> {
    let (mut open, mut seen) = (Vec::new(), Vec::new());
    for tag in text.split('<').skip(1).map(|rest| rest.split_once('>').expect("a tag ends").0) {
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap_or_default().to_string();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_ref(), Some(&name), "closes what is open");
        } else if !tag.ends_with('/') && !tag.starts_with('!') && name != "meta" {
            open.push(name.clone());
        }
        seen.push(name);
    }
    assert_eq!(open, Vec::<String>::new(), "all is closed");
    seen
}

#[test]
fn names_stay_text_and_every_element_is_closed() {
    let page = page();
    let elements = well_formed(&page);
    assert!(!elements.contains(&"script".to_string()));
    assert_eq!(
        elements.iter().filter(|name| *name == "circle").count(),
        2 * (2 + 2),
        "samples and points, opened and closed"
    );
}

#[test]
fn a_page_needs_nothing_from_elsewhere() {
    let page = page();
    for outside in ["http://", "https://", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn behind_every_plot_is_its_table() {
    let page = page();
    let plots = page.matches("<svg").count();
    assert_eq!(plots, 5);
    assert_eq!(page.matches("<summary>The numbers</summary>").count(), plots);
    assert_eq!(page.matches("role=\"img\" aria-label=").count(), plots);
}

#[test]
fn nothing_is_drawn_at_a_place_that_is_no_number() {
    let empty = [
        bars("", "", Against::Each, None, &[]).0,
        bars("", "", Against::One, None, &[Bar { value: f64::NAN, ..Bar::default() }]).0,
        bars("", "", Against::One, None, &[Bar::default()]).0,
        lines("", axes(Scale::Log), None, &[]).0,
        lines("", axes(Scale::Linear), None, &[Line { name: String::new(), points: vec![(3.0, 2.0)] }]).0,
        columns("", axes(Scale::Linear), &[]).0,
        heat("", ("", &[]), &[], &[], [1.0; 6]).0,
        page(),
    ];
    for drawing in empty {
        let attributes = drawing.split('"').skip(1).step_by(2);
        let bad = attributes.filter(|value| value.contains("NaN") || value.contains("inf"));
        assert_eq!(bad.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}

#[test]
fn short_numbers() {
    let all =
        [0.0, 1.0, 0.5, 12.34, 999.4, 12_345.0, 123_456.0, 1.234e6, 2e9, 3e13, 1e-3, 1.5e-7, -4.0].map(short);
    assert_eq!(
        all,
        ["0", "1", "0.5", "12.3", "999", "12345", "123 k", "1.23 M", "2 G", "30 T", "1e-3", "1.5e-7", "-4"]
    );
}

#[test]
fn a_diagram_stands_alone_and_knows_what_lies_over_what() {
    let mut fine = Diagram::new();
    fine.frame((5.0, 5.0, 400.0, 100.0), HOSTILE);
    fine.node((20.0, 40.0, 120.0, 50.0), "b0", "one", &["first"]);
    fine.node((200.0, 40.0, 120.0, 50.0), "box", "two", &[]);
    fine.arrow(&[(140.0, 65.0), (200.0, 65.0)]);
    assert_eq!(fine.problems(120.0), [] as [&str; 0]);
    let svg = fine.render(120.0, HOSTILE);
    assert!(
        svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"120\" viewBox"),
        "{svg}"
    );
    assert!(well_formed(&svg).contains(&"style".to_string()) && !svg.contains("<script"), "{svg}");

    let mut crowded = Diagram::new();
    crowded.node((60.0, 20.0, 60.0, 40.0), "box", "much too long", &[]);
    crowded.node((100.0, 30.0, 100.0, 40.0), "box", "b", &[]);
    crowded.words((740.0, 90.0), "", "too far");
    crowded.words((20.0, 108.0), "", "too low");
    assert_eq!(
        crowded.problems(100.0),
        [
            "'much too long' does not fit its box",
            "'b' lies over 'much too long'",
            "'too far' is outside",
            "'too low' is outside",
        ]
    );
}
