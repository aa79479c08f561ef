//! What is wrong with stacks, told wherever containers are listed.

use serde_json::Value;

use crate::client::Client;
use crate::output::tell;

/// Prints the problems of all stacks to standard error; a daemon that cannot say says nothing.
pub async fn tell(client: &Client) {
    let Ok(stacks) = client.get::<Vec<Value>>("/sampan/v1/stacks").await else { return };
    for stack in &stacks {
        tell_of(stack);
    }
}

/// Prints the problem of one stack, if it has one.
pub fn tell_of(stack: &Value) {
    if let Some(problem) = stack["problem"].as_str().filter(|problem| !problem.is_empty()) {
        let name = stack["name"].as_str().unwrap_or("?");
        match stack["broken"] == true {
            true => tell!("stack {name}: its files are broken; the last good state is kept:\n{}", problem.trim_end()),
            false => tell!("stack {name}: {}", problem.trim_end()),
        }
    }
}
