//! OpenAPI 3.1 document of the public API, made from the declarations.
//!
//! The schema of a body is derived from a sample of the declared type, so the document cannot contradict the code.

use std::collections::BTreeMap;

use gantry_error_codes::ErrorCode;
use serde_json::{Map, Value, json};

use crate::Problem;
use crate::endpoint::{AccessScope, EndpointDescription, Media};
use crate::endpoints;
use crate::types::OpenApiDocument;

/// Builds the complete document.
#[must_use]
pub fn document() -> OpenApiDocument {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for endpoint in endpoints::all() {
        let method = endpoint.method.as_str().to_ascii_lowercase();
        paths.entry(endpoint.path).or_default().insert(method, operation(&endpoint));
    }
    OpenApiDocument(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gantry",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Streams are newline-delimited JSON, or server-sent events with `Accept: text/event-stream`.",
        },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "security": [{ "token": [] }],
        "paths": paths,
    }))
}

fn operation(endpoint: &EndpointDescription) -> Value {
    let description = match endpoint.scope {
        AccessScope::Open => "Needs no token.".to_owned(),
        scope => format!("Needs a token with the scope `{}`.", scope.word()),
    };
    let mut operation = json!({
        "summary": endpoint.summary,
        "description": description,
        "parameters": parameters(endpoint),
        "responses": responses(endpoint),
    });
    if endpoint.scope == AccessScope::Open {
        operation["security"] = json!([]);
    }
    if let Some(media) = &endpoint.request {
        operation["requestBody"] = json!({ "required": true, "content": content(media) });
    }
    operation
}

fn parameters(endpoint: &EndpointDescription) -> Vec<Value> {
    let text = json!({ "type": "string" });
    let of_path = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let of_path = of_path.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }));
    let of_query = endpoint.query.iter().map(
        |(name, meaning)| json!({ "name": name, "in": "query", "required": false, "description": meaning, "schema": text }),
    );
    of_path.chain(of_query).collect()
}

/// A success, the endpoint's own errors by status, and all other problems.
fn responses(endpoint: &EndpointDescription) -> Value {
    let problem = |description: String, problem: &Problem| {
        let sample = serde_json::to_value(problem).unwrap_or(Value::Null);
        json!({ "description": description, "content": content(&Media { kind: "application/json", sample }) })
    };
    let mut responses = Map::new();
    let mut success =
        json!({ "description": if endpoint.status == 101 { "The connection is a session" } else { "Done" } });
    if let Some(media) = &endpoint.response {
        success["content"] = content(media);
    }
    responses.insert(endpoint.status.to_string(), success);
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    endpoint.errors.iter().for_each(|code| by_status.entry(code.status()).or_default().push(*code));
    for (status, codes) in by_status {
        let lines = codes.iter().map(|code| format!("`{}`: {}", code.name(), code.description().meaning));
        let description = lines.collect::<Vec<_>>().join("\n");
        responses.insert(status.to_string(), problem(description, &Problem::new(codes[0], "what is wrong")));
    }
    let other = Problem::new(ErrorCode::InvalidRequest, "what is wrong").hint("what would be right");
    responses.insert("default".to_owned(), problem("A problem".to_owned(), &other));
    Value::Object(responses)
}

fn content(media: &Media) -> Value {
    if media.sample.is_null() {
        return json!({ media.kind: {} });
    }
    json!({ media.kind: { "schema": shape(&media.sample), "example": media.sample } })
}

/// Derives a JSON schema from a sample.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_f64() => json!({ "type": "number" }),
        Value::Number(_) => json!({ "type": "integer" }),
        Value::String(_) => json!({ "type": "string" }),
        Value::Array(items) => json!({ "type": "array", "items": items.first().map_or(json!({}), shape) }),
        Value::Object(fields) => {
            let properties: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect();
            json!({ "type": "object", "properties": properties })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn describes_every_endpoint_once() {
        let OpenApiDocument(document) = document();
        let paths = document["paths"].as_object().expect("paths");
        let count: usize = paths.values().map(|path| path.as_object().map_or(0, Map::len)).sum();
        assert_eq!(count, endpoints::all().len(), "two endpoints have one method and path");
        let response = &paths["/v1/apps/{app}"]["get"]["responses"]["200"]["content"]["application/json"];
        assert_eq!(response["schema"]["properties"]["ready"]["type"], "integer");
        let follow = &paths["/v1/apps/{app}/deploys/{number}/follow"]["get"];
        let names: Vec<&str> =
            follow["parameters"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(names, ["app", "number", "until"]);
        let missing = follow["responses"]["404"]["description"].as_str().expect("text");
        assert!(missing.contains("`deploy_not_found`: "), "{missing}");
    }

    #[test]
    fn every_endpoint_has_a_summary_and_distinct_errors() {
        for endpoint in endpoints::all() {
            assert!(!endpoint.summary.is_empty() && !endpoint.summary.ends_with('.'), "{}", endpoint.path);
            let errors: BTreeSet<_> = endpoint.errors.iter().map(|code| code.name()).collect();
            assert_eq!(errors.len(), endpoint.errors.len(), "{} {}", endpoint.method, endpoint.path);
            assert!(endpoint.errors.iter().all(|code| code.description().status != 0), "{}", endpoint.path);
            assert!(endpoint.path.starts_with("/v1/"), "{}", endpoint.path);
        }
    }

    #[test]
    fn only_the_document_needs_no_token() {
        let open = endpoints::all().into_iter().filter(|endpoint| endpoint.scope == AccessScope::Open);
        assert_eq!(open.map(|endpoint| endpoint.path).collect::<Vec<_>>(), ["/v1/openapi.json"]);
        let changes = endpoints::all().into_iter().filter(|endpoint| endpoint.method != http::Method::GET);
        for change in changes {
            let may = matches!(change.scope, AccessScope::Admin | AccessScope::Deploy | AccessScope::DeployOfObject);
            assert!(may, "{} {} changes something with {:?}", change.method, change.path, change.scope);
        }
    }
}
