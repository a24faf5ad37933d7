//! `weft completion SHELL`: the script of a shell, which completes commands and flags by itself, and kinds and names of objects by asking
//! the control plane through the hidden `weft __complete`.

use crate::Global;
use crate::client::Client;
use crate::client::kinds::Kinds;
use crate::failure::Failure;
use crate::output;
use clap_complete::Shell;
use serde_json::Value;
use std::time::Duration;

/// Name of the hidden subcommand.
pub const LIVE: &str = "__complete";
/// Whoever presses a key waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Names that are offered at most.
const MOST: u32 = 500;

/// Flags of `weft completion`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of the hidden subcommand.
#[derive(clap::Args, Debug)]
pub struct LiveArgs {
    /// The words after `weft`, the one under the cursor last
    #[arg(last = true)]
    words: Vec<String>,
}

/// Prints the script.
pub fn script(args: &Args, command: &mut clap::Command) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "weft", &mut script);
    let live = match args.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
        _ => "",
    };
    output::print(&format!("{}{live}", String::from_utf8_lossy(&script)))?;
    Ok(0)
}

const BASH: &str = r#"
_weft_live() {
    _weft "$@"
    case "${COMP_WORDS[1]}" in
        get|describe|edit|delete|stat|top|tap|edges|routes|endpoints|proxy)
            local live
            live="$(weft __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" || return 0
            COMPREPLY+=( $(compgen -W "${live}" -- "${COMP_WORDS[COMP_CWORD]}") )
            ;;
    esac
}
complete -F _weft_live -o bashdefault -o default weft
"#;

const ZSH: &str = r#"
_weft_live() {
    local -a live
    case "${words[2]}" in
        get|describe|edit|delete|stat|top|tap|edges|routes|endpoints|proxy) live=(${(f)"$(weft __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}) ;;
    esac
    (( $#live )) && compadd -a live
    _weft "$@"
}
compdef _weft_live weft
"#;

const FISH: &str = r#"
complete -c weft -n "__fish_seen_subcommand_from get describe edit delete stat top tap edges routes endpoints proxy" -f -a "(weft __complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)"
"#;

/// What the word under the cursor can be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    /// A kind.
    Kind,
    /// The name of an object of this kind; after `KIND/` if so.
    Name {
        kind: String,
        slash: bool,
    },
}

/// What was typed before the word under the cursor, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Typed {
    namespace: Option<String>,
    context: Option<String>,
    kubeconfig: Option<String>,
}

/// Prints what can stand under the cursor, one a line; nothing when the control plane cannot be asked.
pub async fn live(global: &Global, args: LiveArgs) -> Result<u8, Failure> {
    let (wanted, typed) = read(&args.words);
    let global = Global {
        kubeconfig: typed.kubeconfig.map(Into::into).or(global.kubeconfig.clone()),
        context: typed.context.or(global.context.clone()),
    };
    let asked = tokio::time::timeout(PATIENCE, candidates(&global, wanted, typed.namespace.as_deref())).await;
    let found = asked.unwrap_or_else(|_| Err(Failure::unreachable("no answer in time")))?;
    output::print(&found.iter().map(|word| format!("{word}\n")).collect::<String>())?;
    Ok(0)
}

async fn candidates(global: &Global, wanted: Wanted, namespace: Option<&str>) -> Result<Vec<String>, Failure> {
    let client = Client::new(global)?;
    let (kind, slash) = match wanted {
        Wanted::Nothing => return Ok(Vec::new()),
        Wanted::Kind => {
            let kinds = Kinds::discover(&client).await?;
            return Ok(kinds.preferred().map(|kind| kind.singular.clone()).collect());
        }
        Wanted::Name { kind, slash } => (kind, slash),
    };
    let kinds = Kinds::discover(&client).await?;
    let found = kinds.named(&kind)?;
    let path = format!("{}?limit={MOST}", found.collection(Some(&client.namespace(namespace))));
    let list: Value = client.read(&path).await.map_err(|error| error.into_failure("list names"))?;
    let items = list.get("items").and_then(Value::as_array);
    let names = items.into_iter().flatten().filter_map(|item| item.pointer("/metadata/name")?.as_str());
    Ok(names.map(|name| if slash { format!("{kind}/{name}") } else { name.to_owned() }).collect())
}

/// What is wanted after `words`.
fn read(words: &[String]) -> (Wanted, Typed) {
    let mut typed = Typed::default();
    let [before @ .., cursor] = words else { return (Wanted::Nothing, typed) };
    let mut positions: Vec<&str> = Vec::new();
    let mut before = before.iter().map(String::as_str);
    while let Some(word) = before.next() {
        let (flag, joined) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        let slot = match flag {
            "-n" | "--namespace" => &mut typed.namespace,
            "--context" => &mut typed.context,
            "--kubeconfig" => &mut typed.kubeconfig,
            "-o" | "--output" | "-l" | "--selector" | "-f" | "--filename" => {
                if joined.is_none() && before.next().is_none() {
                    return (Wanted::Nothing, typed);
                }
                continue;
            }
            other if other.starts_with('-') => continue,
            other => {
                positions.push(other);
                continue;
            }
        };
        match joined.or_else(|| before.next()) {
            Some(value) => *slot = Some(value.to_owned()),
            None => return (Wanted::Nothing, typed),
        }
    }
    let of = |kind: &str| Wanted::Name { kind: kind.to_owned(), slash: false };
    let wanted = match positions.as_slice() {
        _ if cursor.starts_with('-') => Wanted::Nothing,
        // These name services and workloads alone.
        ["stat" | "edges" | "routes" | "endpoints", ..] | ["top"] => of("service"),
        ["proxy", "config" | "log" | "stats"] => of("workload"),
        [verb, ..] if !["get", "describe", "edit", "delete"].contains(verb) => Wanted::Nothing,
        [_] => match cursor.split_once('/') {
            Some((kind, _)) => Wanted::Name { kind: kind.to_owned(), slash: true },
            None => Wanted::Kind,
        },
        [_, kind, ..] if !kind.contains(['/', ',']) => Wanted::Name { kind: (*kind).to_owned(), slash: false },
        _ => Wanted::Nothing,
    };
    (wanted, typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &str) -> Wanted {
        read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).0
    }

    #[test]
    fn kinds_come_first_and_names_after_them() {
        assert_eq!(after("get "), Wanted::Kind);
        assert_eq!(after("get -n shop sv"), Wanted::Kind);
        let name = |slash| Wanted::Name { kind: "svc".into(), slash };
        assert_eq!(after("describe svc "), name(false));
        assert_eq!(after("delete -l a=b svc cart ca"), name(false));
        assert_eq!(after("edit svc/c"), name(true));
        let of = |kind: &str| Wanted::Name { kind: kind.into(), slash: false };
        assert_eq!(
            (after("stat sv"), after("routes a b"), after("top ")),
            (of("service"), of("service"), of("service"))
        );
        assert_eq!((after("proxy stats -n shop c"), after("proxy log ")), (of("workload"), of("workload")));
        for nothing in [
            "ge",
            "top a b",
            "proxy c",
            "proxy log a b",
            "stat --w",
            "explain a",
            "get --o",
            "get -n ",
            "get svc/cart x",
            "get -o ",
        ] {
            assert_eq!(after(nothing), Wanted::Nothing, "{nothing}");
        }
    }

    #[test]
    fn the_flags_that_say_where_are_heard() {
        let words: Vec<String> = ["get", "-n", "shop", "--context=two", "svc", ""].map(str::to_owned).to_vec();
        let (_, typed) = read(&words);
        assert_eq!((typed.namespace.as_deref(), typed.context.as_deref()), (Some("shop"), Some("two")));
    }

    #[test]
    fn scripts_ask_for_what_is_live() {
        for script in [BASH, ZSH, FISH] {
            assert!(script.contains(&format!("weft {LIVE} --")));
        }
    }
}
