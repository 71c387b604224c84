//! Prints the OpenAPI document of the server.

fn main() {
    let text = serde_json::to_string_pretty(&bitnet_server::openapi()).expect("keys are strings");
    println!("{text}");
}
