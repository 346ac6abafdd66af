// A bundle's manifest.json: the network's tensors, preprocessing, labels, variants, and how far outputs may be off.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

// Something that was given is wrong: exit code 2, as edgekit's.
struct BadInput : std::runtime_error {
    using std::runtime_error::runtime_error;
};

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw BadInput(path.string() + " cannot be read; check the path and its permissions");
    std::ostringstream content;
    content << stream.rdbuf();
    return content.str();
}

// x = (pixel / 255 - mean) / std, pixels after decoding and resizing; see edgekit/preprocess.py.
struct Preprocess {
    bool grey = false;
    int height = 0, width = 0;
    std::vector<float> mean, std;
};

struct TensorSpec {
    std::string name;
    std::int64_t batch = 0;  // 0: free
};

// What outputs are held to: |y - r| <= rtol * max|r| of its part of the samples, and the share of equal top-1. The first file of
// full precision is held to the rounding noise that was measured at export, too, which is far less; see golden.hpp.
struct Bar {
    double rtol = 0, top1 = 1, snr_db = 0;
    bool asks_snr = false;
    bool first_part_only = false;  // a variant of 8 bits: other parts reach values that its ranges do not cover
};

struct Bundle {
    std::filesystem::path root, model;
    std::string name, variant;
    std::vector<TensorSpec> inputs, outputs;
    std::vector<std::string> labels;
    bool takes_pictures = false;
    Preprocess preprocess;
    std::int64_t samples = 0;
    std::vector<std::int64_t> parts;         // samples of each kind, in order
    std::filesystem::path golden, evidence;  // evidence.npz has the measured noise; empty: none was, or not of this variant
    std::map<std::string, std::int64_t> channel_axes;  // output -> the axis that its noise is kept by
    Bar bar;

    // The only batch size that the network takes, or 1 where any will do.
    std::int64_t batch() const { return inputs[0].batch ? inputs[0].batch : 1; }
};

// Input name -> the bytes of one batch, C order.
using Feed = std::map<std::string, std::string>;

// Output name -> its values, of whatever type they are, as double.
using Outputs = std::map<std::string, std::vector<double>>;

namespace detail {

using Json = nlohmann::json;

// A name in a manifest is somebody else's, and must not lead out of the bundle's folder.
inline std::filesystem::path inside(const std::filesystem::path& root, const std::string& name) {
    const std::filesystem::path path(name);
    if (name.empty() || name[0] == '.' || path.filename() != path)
        throw BadInput("manifest.json names the file '" + name + "', which is no plain name; do not use this bundle");
    return root / path;
}

inline std::vector<TensorSpec> specs(const Json& described) {
    std::vector<TensorSpec> found;
    for (const auto& spec : described) {
        const auto& first = spec.at("shape").at(0);
        found.push_back({spec.at("name"), first.is_number() ? first.get<std::int64_t>() : 0});
    }
    if (found.empty()) throw BadInput("manifest.json lists no inputs or no outputs; get the bundle again");
    return found;
}

inline const Json& variant_of(const Json& manifest, const std::string& wanted) {
    std::string names;
    for (const auto& variant : manifest.at("variants")) {
        if (wanted.empty() || variant.at("name") == wanted) return variant;
        names += (names.empty() ? "" : ", ") + variant.at("name").get<std::string>();
    }
    throw BadInput("the bundle has no variant '" + wanted + "'; choose one of: " + names);
}

inline void read_preprocess(const Json& manifest, Bundle& bundle) {
    for (const auto& label : manifest.at("labels")) bundle.labels.push_back(label);
    const auto& how = manifest.at("preprocess");
    if (how.is_null() || bundle.labels.empty() || bundle.inputs.size() != 1) return;
    if (how.at("interpolation") != "bilinear" || how.at("layout") != "NCHW")
        throw BadInput("manifest.json asks for another interpolation or layout than this program knows; use a newer one");
    bundle.takes_pictures = true;
    bundle.preprocess = {how.at("color") == "grey", how.at("height"), how.at("width"), how.at("mean").get<std::vector<float>>(),
                         how.at("std").get<std::vector<float>>()};
    const std::size_t channels = bundle.preprocess.grey ? 1 : 3;
    if (bundle.preprocess.mean.size() != channels || bundle.preprocess.std.size() != channels || bundle.preprocess.height < 1 ||
        bundle.preprocess.width < 1)
        throw BadInput("manifest.json describes no preprocessing that can be done; get the bundle again");
}

inline Bar bar_of(const Json& allowance) {
    Bar bar;
    bar.rtol = allowance.at("tolerance").at("rtol");
    bar.top1 = allowance.at("tolerance").at("top1");
    const Json snr = allowance.value("snr_db", Json());
    if ((bar.asks_snr = !snr.is_null())) bar.snr_db = snr;
    bar.first_part_only = !allowance.value("steps", Json()).is_null();
    return bar;
}

inline void read_evidence(const Json& manifest, const Json& variant, Bundle& bundle) {
    const Json evidence = manifest.value("evidence", Json());
    if (evidence.is_null() || variant != manifest.at("variants").at(0) || variant.at("precision") != "float32") return;
    bundle.evidence = inside(bundle.root, evidence.at("file"));
    evidence.at("axes").get_to(bundle.channel_axes);
}

}  // namespace detail

inline Bundle open_bundle(const std::filesystem::path& root, const std::string& variant) {
    if (std::filesystem::is_regular_file(root))
        throw BadInput(root.string() + " is a file, and a bundle is a folder; unpack it first, by edgekit unpack or any unzip");
    const auto path = root / "manifest.json";
    const std::string content = read_file(path);
    try {
        const auto manifest = detail::Json::parse(content);
        if (manifest.at("schema") < 4 || manifest.at("reads_from") > 5)
            throw BadInput(path.string() + " has a schema that this program does not know; it knows 4 and 5");
        Bundle bundle;
        bundle.root = root;
        bundle.name = manifest.at("name");
        bundle.inputs = detail::specs(manifest.at("inputs"));
        bundle.outputs = detail::specs(manifest.at("outputs"));
        const auto& chosen = detail::variant_of(manifest, variant);
        bundle.variant = chosen.at("name");
        if (chosen.contains("inputs"))
            throw BadInput("the variant " + bundle.variant +
                           " takes pictures as they are, and this program prepares them; README.md of the bundle has its own");
        bundle.model = detail::inside(root, chosen.at("file"));
        bundle.bar = detail::bar_of(chosen.at("allowance"));
        detail::read_preprocess(manifest, bundle);
        const auto& golden = manifest.at("golden");
        bundle.golden = detail::inside(root, golden.at("file"));
        bundle.samples = golden.at("samples");
        detail::read_evidence(manifest, chosen, bundle);
        for (const auto& part : golden.value("parts", detail::Json::array())) bundle.parts.push_back(part.at("samples"));
        if (bundle.parts.empty()) bundle.parts = {bundle.samples};
        return bundle;
    } catch (const nlohmann::json::exception& problem) {
        throw BadInput(path.string() + " is no manifest: " + problem.what() + "; get the bundle again");
    }
}
