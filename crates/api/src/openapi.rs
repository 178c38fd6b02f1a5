//! OpenAPI 3.1 documents of the public API and of the API for applications, made from the declarations.
//!
//! The schema of a body is derived from a sample of the declared type, so the document cannot contradict the code.

use std::collections::BTreeMap;

use gantry_error_codes::ErrorCode;
use serde_json::{Map, Value, json};

use crate::Problem;
use crate::endpoint::{AccessScope, EndpointDescription, Media};
use crate::endpoints;
use crate::types::OpenApiDocument;

/// Builds the document of the public API.
#[must_use]
pub fn document() -> OpenApiDocument {
    let paths = paths(&endpoints::all());
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

/// Builds the document of the API for applications.
#[must_use]
pub fn document_for_applications() -> OpenApiDocument {
    let paths = paths(&endpoints::for_applications());
    OpenApiDocument(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gantry for applications",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Services, keys, locks and elections for the containers of an app. Every container finds the \
                API at the address in `GANTRY_API`. Below `/v3` is the JSON gateway of etcd 3.4 and 3.5 with its own \
                requests, responses and errors.",
        },
        "servers": [{ "url": "http://{gateway}:4690", "description": "the address in `GANTRY_API`",
            "variables": { "gateway": { "default": "10.83.0.1" } } }],
        "paths": paths,
    }))
}

/// The operations by path and method.
fn paths(endpoints: &[EndpointDescription]) -> BTreeMap<String, Map<String, Value>> {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for endpoint in endpoints {
        let method = endpoint.method.as_str().to_ascii_lowercase();
        // A parameter that is the rest of the path has no form of its own in OpenAPI.
        paths.entry(endpoint.path.replace("{*", "{")).or_default().insert(method, operation(endpoint));
    }
    paths
}

fn operation(endpoint: &EndpointDescription) -> Value {
    let description = match endpoint.scope {
        AccessScope::Open => "Needs no token.".to_owned(),
        AccessScope::Container | AccessScope::ContainerOfApp => {
            "Needs no token: a container is known by its address.".to_owned()
        }
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
    let of_path = of_path.map(|name| match name.strip_prefix('*') {
        None => json!({ "name": name, "in": "path", "required": true, "schema": text }),
        Some(name) => json!({ "name": name, "in": "path", "required": true, "schema": text,
            "description": "the rest of the path, which may have slashes" }),
    });
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
    // The errors of another product's API have a form of their own.
    if endpoint.path.starts_with("/v1/") {
        let other = Problem::new(ErrorCode::InvalidRequest, "what is wrong").hint("what would be right");
        responses.insert("default".to_owned(), problem("A problem".to_owned(), &other));
    }
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
    fn describes_every_endpoint_for_applications_once() {
        let OpenApiDocument(document) = document_for_applications();
        let paths = document["paths"].as_object().expect("paths");
        let count: usize = paths.values().map(|path| path.as_object().map_or(0, Map::len)).sum();
        assert_eq!(count, endpoints::for_applications().len(), "two endpoints have one method and path");
        let put = &paths["/v1/kv/{key}"]["put"];
        let parameters = put["parameters"].as_array().expect("a list");
        let names: Vec<&str> = parameters.iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(names, ["key", "cas", "ttl"]);
        assert!(put["responses"]["409"]["description"].as_str().expect("text").contains("`revision_conflict`: "));
        assert_eq!(paths["/v3/{call}"]["post"]["responses"].as_object().expect("responses").len(), 1);
    }

    #[test]
    fn every_endpoint_has_a_summary_and_distinct_errors() {
        for endpoint in endpoints::all().into_iter().chain(endpoints::for_applications()) {
            assert!(!endpoint.summary.is_empty() && !endpoint.summary.ends_with('.'), "{}", endpoint.path);
            let errors: BTreeSet<_> = endpoint.errors.iter().map(|code| code.name()).collect();
            assert_eq!(errors.len(), endpoint.errors.len(), "{} {}", endpoint.method, endpoint.path);
            assert!(endpoint.errors.iter().all(|code| code.description().status != 0), "{}", endpoint.path);
        }
        assert!(endpoints::all().iter().all(|endpoint| endpoint.path.starts_with("/v1/")));
    }

    #[test]
    fn only_endpoints_for_applications_are_for_containers() {
        let of_container = |scope: AccessScope| matches!(scope, AccessScope::Container | AccessScope::ContainerOfApp);
        assert!(endpoints::for_applications().iter().all(|endpoint| of_container(endpoint.scope)));
        assert!(!endpoints::all().iter().any(|endpoint| of_container(endpoint.scope)));
    }

    #[test]
    fn only_the_documents_need_no_token() {
        let open = endpoints::all().into_iter().filter(|endpoint| endpoint.scope == AccessScope::Open);
        assert_eq!(
            open.map(|endpoint| endpoint.path).collect::<Vec<_>>(),
            ["/v1/openapi.json", "/v1/openapi-apps.json"]
        );
        let changes = endpoints::all().into_iter().filter(|endpoint| endpoint.method != http::Method::GET);
        for change in changes {
            let may = matches!(change.scope, AccessScope::Admin | AccessScope::Deploy | AccessScope::DeployOfObject);
            assert!(may, "{} {} changes something with {:?}", change.method, change.path, change.scope);
        }
    }
}
