//! Reads an object's fate from its `status`: pending, in force, or refused and why. Pure; `apply --wait` and `check` use it.
//!
//! Weft's own kinds carry `status.conditions`; Gateway API routes carry conditions for each parent.

use serde_json::Value;

/// What is known of an object's fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody has said anything about this generation yet; the text is what was said last.
    Pending(String),
    /// A sample of the sidecars has it; the text says how many, and for how long.
    RollingOut(String),
    /// In force; the text is what `Programmed` says ("12 of 12 sidecars hold generation 7").
    InForce(String),
    /// Not accepted, or it refers to what is not there.
    Refused(String),
}

/// Kinds whose objects have a fate: policies and routes. Others are done once they are stored.
pub fn has_fate(group: &str, kind: &str) -> bool {
    match group {
        "gateway.networking.k8s.io" => kind.ends_with("Route"),
        "weft.mesh" => kind.ends_with("Policy") || kind.starts_with("Mesh") || kind == "RequestAuthentication",
        _ => false,
    }
}

/// The fate of an object.
pub fn fate(object: &Value) -> Fate {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    let own = object.pointer("/status/conditions").and_then(Value::as_array);
    let parents = object.pointer("/status/parents").and_then(Value::as_array);
    let mut sets: Vec<&Vec<Value>> = own.into_iter().collect();
    sets.extend(parents.into_iter().flatten().filter_map(|parent| parent.get("conditions")?.as_array()));
    let ancestors = object.pointer("/status/ancestors").and_then(Value::as_array);
    sets.extend(ancestors.into_iter().flatten().filter_map(|ancestor| ancestor.get("conditions")?.as_array()));
    if sets.is_empty() {
        return Fate::Pending("no status yet".into());
    }
    let mut in_force = String::new();
    for conditions in sets {
        match of_conditions(conditions, generation) {
            Fate::InForce(message) if in_force.is_empty() => in_force = message,
            Fate::InForce(_) => {}
            other => return other,
        }
    }
    Fate::InForce(in_force)
}

fn of_conditions(conditions: &[Value], generation: i64) -> Fate {
    let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let find = |name: &str| conditions.iter().find(|condition| text(condition, "type") == name);
    let is_current = |condition: &Value| {
        condition.get("observedGeneration").and_then(Value::as_i64).is_none_or(|observed| observed >= generation)
    };
    let Some(accepted) = find("Accepted").filter(|condition| is_current(condition)) else {
        return Fate::Pending("not looked at yet".into());
    };
    for condition in
        [Some(accepted), find("ResolvedRefs"), find("TargetsResolved")].into_iter().flatten().filter(|c| is_current(c))
    {
        if text(condition, "status") == "False" {
            let (name, reason, message) =
                (text(condition, "type"), text(condition, "reason"), text(condition, "message"));
            return Fate::Refused(format!("{name}=False ({reason}): {message}"));
        }
    }
    match find("Programmed") {
        None => Fate::InForce(text(accepted, "message")),
        Some(programmed) if !is_current(programmed) => Fate::Pending(text(programmed, "message")),
        Some(programmed) if text(programmed, "status") == "True" => Fate::InForce(text(programmed, "message")),
        // A sidecar that refuses says so here; one that has not answered yet is only late.
        Some(programmed) if text(programmed, "reason") == "RollingOut" => Fate::RollingOut(text(programmed, "message")),
        Some(programmed)
            if ["Invalid", "Refused", "Rejected", "RolledBack"].contains(&text(programmed, "reason").as_str()) =>
        {
            Fate::Refused(format!("Programmed=False ({}): {}", text(programmed, "reason"), text(programmed, "message")))
        }
        Some(programmed) => Fate::Pending(text(programmed, "message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn condition(kind: &str, status: &str, observed: i64) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": "m", "observedGeneration": observed})
    }

    #[test]
    fn an_object_is_in_force_once_its_generation_is_programmed() {
        let object = |programmed: Value| json!({"metadata": {"generation": 2}, "status": {"conditions": [condition("Accepted", "True", 2), programmed]}});
        assert_eq!(fate(&object(condition("Programmed", "True", 2))), Fate::InForce("m".into()));
        assert_eq!(fate(&object(condition("Programmed", "True", 1))), Fate::Pending("m".into()));
        assert_eq!(fate(&object(condition("Programmed", "False", 2))), Fate::Pending("m".into()));
    }

    #[test]
    fn a_change_that_is_rolled_out_is_waited_for_and_one_that_is_rolled_back_is_refused() {
        let object = |reason: &str| {
            let mut programmed = condition("Programmed", "False", 2);
            programmed["reason"] = reason.into();
            fate(
                &json!({"metadata": {"generation": 2}, "status": {"conditions": [condition("Accepted", "True", 2), programmed]}}),
            )
        };
        assert_eq!(object("RollingOut"), Fate::RollingOut("m".into()));
        assert_eq!(object("RolledBack"), Fate::Refused("Programmed=False (RolledBack): m".into()));
    }

    #[test]
    fn a_reference_to_nothing_is_a_refusal_that_says_why() {
        let object = json!({"metadata": {"generation": 1}, "status": {"parents": [
            {"conditions": [condition("Accepted", "True", 1), condition("ResolvedRefs", "False", 1)]}]}});
        assert_eq!(fate(&object), Fate::Refused("ResolvedRefs=False (R): m".into()));
    }

    #[test]
    fn an_old_refusal_says_nothing_about_a_new_generation() {
        let object =
            json!({"metadata": {"generation": 2}, "status": {"conditions": [condition("Accepted", "False", 1)]}});
        assert!(matches!(fate(&object), Fate::Pending(_)));
    }
}
