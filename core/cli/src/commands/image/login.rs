//! `login` and `logout`.

use nix::sys::termios::{self, LocalFlags, SetArg};
use serde_json::{Value, json};
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;

use super::auth::{ConfigFile, Kept};
use super::reference;
use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::terminal;
use crate::output::{say, show, tell};

/// Options of `login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// Password or Personal Access Token (PAT)
    #[arg(short, long)]
    pub password: Option<String>,
    /// Take the Password or Personal Access Token (PAT) from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Username
    #[arg(short, long)]
    pub username: Option<String>,
    /// Registry
    pub server: Option<String>,
}

fn key(server: Option<&str>) -> String {
    let server = server.filter(|server| !server.is_empty()).unwrap_or(reference::HUB);
    if server == reference::HUB_KEY {
        return server.to_owned();
    }
    let host = server.trim_start_matches("https://").trim_start_matches("http://").split('/').next().unwrap_or(server);
    reference::credentials_key(host).to_owned()
}

/// `login`
pub async fn login(context: Context, args: LoginArgs) -> Outcome {
    let server = key(args.server.as_deref());
    let mut file = ConfigFile::read(&context.config)?;
    if args.password.is_some() {
        tell!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if args.password_stdin {
            return Err(Failure::usage("conflicting options: cannot specify both --password and --password-stdin"));
        }
    }
    if args.username.is_none() && args.password.is_none() && !args.password_stdin {
        let mut known = file.credentials(if server == reference::HUB_KEY { reference::HUB } else { &server });
        if !known.is_null() {
            say!("Authenticating with existing credentials...")?;
            known["serveraddress"] = json!(server);
            match context.client.post::<Value>("/auth", &known).await {
                Ok(_) => return say!("Login Succeeded"),
                Err(error) => tell!("Login did not succeed, error: {}", error.message),
            }
        }
    }
    let username = match (args.username, args.password_stdin) {
        (Some(name), _) => name,
        (None, true) => return Err(Failure::usage("the --password-stdin option requires --username to be set")),
        (None, false) => ask("Username: ", false)?,
    };
    let password = match (args.password, args.password_stdin) {
        (Some(password), _) => password,
        (None, true) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text.trim_end_matches('\n').trim_end_matches('\r').to_owned()
        }
        (None, false) => ask("Password: ", true)?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new(if username.is_empty() { "username is required" } else { "password is required" }));
    }
    let body = json!({"username": username, "password": password, "serveraddress": server});
    let answer: Value = context.client.post("/auth", &body).await?;
    let token = answer["IdentityToken"].as_str().unwrap_or_default();
    let secret = if token.is_empty() { &password } else { token };
    if let Kept::File(path) = file.store(&server, &username, secret, !token.is_empty())? {
        tell!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this warning.\n",
            path.display()
        );
    }
    say!("{}", answer["Status"].as_str().filter(|status| !status.is_empty()).unwrap_or("Login Succeeded"))?;
    Ok(())
}

/// Asks on the terminal, hidden for secrets.
fn ask(prompt: &str, hidden: bool) -> Outcome<String> {
    if !terminal::input_is_terminal() {
        return Err(Failure::new("Cannot perform an interactive login from a non TTY device"));
    }
    let input = std::io::stdin();
    show!("{prompt}")?;
    std::io::stdout().flush()?;
    let before = if hidden { termios::tcgetattr(input.as_fd()).ok() } else { None };
    if let Some(before) = &before {
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        let _ = termios::tcsetattr(input.as_fd(), SetArg::TCSANOW, &quiet);
    }
    let mut line = String::new();
    let read = input.lock().read_line(&mut line);
    if let Some(before) = &before {
        let _ = termios::tcsetattr(input.as_fd(), SetArg::TCSANOW, before);
        say!()?;
    }
    read?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Arguments of `logout`.
#[derive(Debug, clap::Args)]
pub struct LogoutArgs {
    /// Registry
    pub server: Option<String>,
}

/// `logout`
pub async fn logout(context: Context, args: LogoutArgs) -> Outcome {
    let server = key(args.server.as_deref());
    let mut file = ConfigFile::read(&context.config)?;
    if file.erase(&server)? {
        say!("Removing login credentials for {server}")?;
    } else {
        say!("Not logged in to {server}")?;
    }
    Ok(())
}
