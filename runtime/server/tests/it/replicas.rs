//! Several engines behind one queue.

use crate::client::post;
use crate::support::*;
use bitnet_server::{Loader, SchedulerLimits, Server, Settings};
use serde_json::json;

#[test]
fn each_replica_takes_its_part_and_answers_are_the_same() {
    let limits = SchedulerLimits { slots: 1, kept_sequences: 4 };
    let (loaders, gates): (Vec<_>, Vec<_>) = (0..3).map(|_| gated()).unzip();
    let server = Server::start_replicas(Settings { scheduler: limits, ..settings() }, loaders).unwrap();
    let address = server.address();
    let held: Vec<_> = gates.iter().map(|gate| gate.lock().unwrap()).collect();
    let prompts =
        ["And Moses said", "In the beginning", "The words of", "Who is like thee", "And it came to pass"];
    let clients = prompts.map(|prompt| {
        let request = json!({ "prompt": prompt, "max_tokens": 8 });
        std::thread::spawn(move || post(address, "/v1/completions", &request).json())
    });
    // One answer a replica, as there is one slot in each.
    until_taken(address, 3.0, 2.0);
    drop(held);
    for (prompt, client) in prompts.into_iter().zip(clients) {
        assert_eq!(client.join().unwrap()["choices"][0]["text"], alone(prompt, 8), "{prompt}");
    }
    eventually("all slots are free", || metric(address, "bitnet_active_answers") == 0.0);
    assert_eq!(metric(address, "bitnet_kv_pages") as usize % 3, 0, "pages of three engines are added up");
    server.shut_down();
}

#[test]
fn a_replica_that_cannot_be_had_is_an_error() {
    let bad: Loader =
        std::sync::Arc::new(|| Err(bitnet_runtime::Error::usage("no such thing", "give another")));
    let error = Server::start_replicas(settings(), vec![loader(1), bad]).err().unwrap().to_string();
    assert!(error.contains("no such thing"), "{error}");
}
