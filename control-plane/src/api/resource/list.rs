//! Lists, page by page: a page that is not the first shows what was there when the first was read, as long as history reaches back.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::*;
use crate::api::table::Form;

/// Records read at once while a selector looks for those it means.
const CHUNK: usize = 500;

/// Where a list goes on.
#[derive(Serialize, Deserialize)]
struct Continue {
    /// The revision of the first page.
    rv: u64,
    /// The last key of the page before.
    ns: String,
    name: String,
}

fn decode(text: &str) -> Result<Continue> {
    let read = URL_SAFE_NO_PAD.decode(text).ok().and_then(|json| serde_json::from_slice(&json).ok());
    read.ok_or_else(|| Failure::bad_request("the continue parameter is none that this server made"))
}

pub(super) async fn list(api: &Inner, call: &Call) -> Result<Response<Body>> {
    let form = negotiate(&call.headers, call.query.text("includeObject"))?;
    let (objects, metadata) = read(api, call).await?;
    Ok(answer(call, form, objects, metadata))
}

pub(super) fn answer(call: &Call, form: Form, objects: Vec<Value>, metadata: Value) -> Response<Body> {
    json_response(StatusCode::OK, &form.list(call.kind, objects, metadata, OffsetDateTime::now_utc()))
}

/// The objects that the call means and the metadata of the list.
pub(super) async fn read(api: &Inner, call: &Call) -> Result<(Vec<Value>, Value)> {
    let (query, scope, selector) = (&call.query, scope(call), selector(call)?);
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let (mut after, mut at) = match query.text("continue") {
        "" => (None, start(api, call).await?),
        text => {
            let from = decode(text)?;
            (Some(Key::new(scope.resource.clone(), from.ns, from.name)), Some(from.rv))
        }
    };
    let mut objects = Vec::new();
    let (revision, remaining) = loop {
        let wanted = limit.saturating_sub(objects.len());
        let page = match (limit, selector.is_empty()) {
            (0, _) => 0,
            (_, true) => wanted,
            (_, false) => CHUNK,
        };
        let page = api.store.list(&scope, after.as_ref(), page, at).await?;
        at = Some(page.revision);
        let count = page.items.len();
        let mut left = page.remaining;
        for (i, record) in page.items.iter().enumerate() {
            let object = object(call.kind, record);
            after = Some(record.key.clone());
            if selector.matches(&object) {
                objects.push(object);
                if objects.len() == limit {
                    left += count - i - 1;
                    break;
                }
            }
        }
        if left == 0 || limit == 0 || objects.len() == limit {
            break (page.revision, left);
        }
    };
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if remaining > 0
        && let Some(last) = after
    {
        let next = Continue { rv: revision, ns: last.namespace.to_string(), name: last.name.to_string() };
        metadata["continue"] = URL_SAFE_NO_PAD.encode(json!(next).to_string()).into();
        if selector.is_empty() {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    Ok((objects, metadata))
}

/// The revision that the first page is to show; `None`: now.
async fn start(api: &Inner, call: &Call) -> Result<Option<u64>> {
    let asked = revision(call.query.text("resourceVersion"))?;
    match (call.query.text("resourceVersionMatch"), asked) {
        ("Exact", None | Some(0)) => {
            Err(Failure::bad_request("resourceVersionMatch=Exact needs a resourceVersion other than 0"))
        }
        ("Exact", exactly) => Ok(exactly),
        ("NotOlderThan", None) => {
            Err(Failure::bad_request("resourceVersionMatch=NotOlderThan needs a resourceVersion"))
        }
        ("" | "NotOlderThan", at_least) => {
            let current = api.store.revision().await?;
            match at_least {
                Some(asked) if asked > current => Err(crate::store::StoreError::Future { asked, current }.into()),
                _ => Ok(None),
            }
        }
        (other, _) => Err(Failure::bad_request(format!("{other:?} is no value of resourceVersionMatch"))),
    }
}
