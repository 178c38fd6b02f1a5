//! The files of a recipe: `container/roles.json`, `Procfile`, `app.json`. The first byte selects the file.
#![no_main]
use gantry_build::Recipe;
use gantry_image::Runtime;
use gantry_model::ImageSettings;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let files = match first % 3 {
        0 => serde_json::json!({ "container/roles.json": text }),
        1 => serde_json::json!({ "Procfile": text }),
        _ => serde_json::json!({ "Procfile": "web: x", "app.json": text }),
    };
    let labels = Some([("dev.gantry.recipe".to_owned(), files.to_string())].into());
    if let Ok(recipe) = Recipe::of_image(&Runtime { labels, ..Runtime::default() }, &ImageSettings::default()) {
        assert!(!recipe.roles.is_empty());
    }
});
