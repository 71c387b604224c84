//! From requests to batches and back: the server's queue, scheduler and paged cache.

use super::Drawn;
use bitforge_charts::Diagram;

pub(super) fn draw() -> Drawn {
    let mut d = Diagram::new();
    d.frame((16.0, 14.0, 214.0, 220.0), "asynchronous: never computes");
    for (index, client) in ["client A", "client B", "client C"].into_iter().enumerate() {
        let y = 44.0 + 44.0 * index as f64;
        d.node((30.0, y, 82.0, 30.0), "box", client, &[]);
        d.arrow(&[(112.0, y + 15.0), (134.0, y + 15.0)]);
    }
    d.node((134.0, 44.0, 84.0, 118.0), "b1", "HTTP", &["parse,", "tokenize"]);
    d.words((30.0, 196.0), "soft", "tokens go back as they");
    d.words((30.0, 212.0), "soft", "come, one stream each");

    d.node(
        (268.0, 44.0, 150.0, 118.0),
        "b3",
        "inbox",
        &["a line for each client,", "served in turn;", "full: 429"],
    );
    d.arrow(&[(218.0, 90.0), (268.0, 90.0)]);

    d.frame((448.0, 14.0, 296.0, 510.0), "one thread per engine");
    d.arrow(&[(418.0, 90.0), (464.0, 90.0)]);
    let steps = [
        ("sweep", "end what was left or is too late"),
        ("resume", "who was paused, oldest first"),
        ("open", "fork the longest common beginning"),
        ("compose", "answers first, then parts of prompts"),
        ("evaluate", "all layers; then a token is drawn"),
        ("hand out", "look for the end, send"),
    ];
    for (index, (title, what)) in steps.into_iter().enumerate() {
        let y = 44.0 + 78.0 * index as f64;
        let class = if title == "compose" || title == "evaluate" { "b0" } else { "box" };
        d.node((464.0, y, 244.0, 52.0), class, title, &[what]);
        if index > 0 {
            d.arrow(&[(586.0, y - 26.0), (586.0, y)]);
        }
    }
    // Round again, and back to the clients.
    d.arrow(&[(708.0, 460.0), (726.0, 460.0), (726.0, 70.0), (708.0, 70.0)]);
    d.arrow(&[(464.0, 472.0), (434.0, 472.0), (434.0, 206.0), (230.0, 206.0)]);

    d.words((16.0, 268.0), "strong", "One batch: rows are tokens");
    let rows = [("A", "b0", 1), ("B", "b1", 1), ("C", "b2", 1), ("D", "b3", 9)];
    let (mut x, y) = (16.0, 280.0);
    for (_, class, count) in rows {
        for _ in 0..count {
            d.cell((x, y, 22.0, 26.0), class);
            x += 25.0;
        }
        x += 8.0;
    }
    for (name, x) in [("A", 27.0), ("B", 60.0), ("C", 93.0)] {
        d.words((x, 298.0), "middle strong", name);
    }
    d.words((226.0, 298.0), "middle strong", "D");
    d.words((16.0, 324.0), "soft", "A, B, C: the next token of an answer each.");
    d.words((16.0, 341.0), "soft", "D: a part of a prompt; logits are wanted of its last token alone.");

    d.words((16.0, 376.0), "strong", "Paged cache: 64 positions a page");
    let pages = ["b0", "b0", "b0", "b1", "b2", "b2", "b3", "b3", "cell", "cell", "cell", "cell"];
    for (index, class) in pages.into_iter().enumerate() {
        d.cell((16.0 + 33.0 * index as f64, 388.0, 30.0, 30.0), class);
    }
    // The first two pages of A are B's as well.
    d.cell((16.0, 420.0, 30.0, 6.0), "b1");
    d.cell((49.0, 420.0, 30.0, 6.0), "b1");
    d.words((16.0, 446.0), "soft", "B shares the first pages of A, and copies one when it");
    d.words((16.0, 463.0), "soft", "writes there. When pages run out the kept beginnings");
    d.words((16.0, 480.0), "soft", "go first, then the youngest answer, which is computed");
    d.words((16.0, 497.0), "soft", "again from its tokens: the same bits.");
    Drawn {
        diagram: d,
        height: 540.0,
        label: "Requests go through HTTP to an inbox with a line for each client; the engine's thread sweeps, resumes, opens, composes a batch, evaluates it and hands out tokens, again and again; batches have the next token of every answer and parts of prompts; the cache is paged and pages are shared",
    }
}
