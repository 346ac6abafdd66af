// edgekit-bundle BUNDLE [--variant NAME] [--threads N] [--runs N] [--input FILE] [PICTURE...]
//
// Checks the golden outputs of a bundle, times the network, and labels pictures. --input writes what the network is given of the
// last picture: float32 C x H x W, to compare with other programs. Exit codes: 0 all well; 1 the golden outputs are
// not what was recorded, and then nothing is labelled; 2 wrong usage or bad input.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "check.hpp"
#include "golden.hpp"
#include "npz.hpp"
#include "picture.hpp"
#include "session.hpp"

namespace {

constexpr const char* USAGE =
    "usage: edgekit-bundle BUNDLE [--variant NAME] [--threads N] [--runs N] [--input FILE] [PICTURE...]";
constexpr std::size_t TOP = 3;

struct Words {
    std::string bundle, variant, input;
    int threads = 1, runs = 200;
    std::vector<std::string> pictures;
};

int positive(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (*end || value < 1 || value > 1000000) throw BadInput(option + " " + text + " is no number from 1 to 1000000; " + USAGE);
    return static_cast<int>(value);
}

Words words_of(int count, char** texts) {
    Words words;
    for (int i = 1; i < count; ++i) {
        const std::string text = texts[i];
        const bool option = text == "--variant" || text == "--threads" || text == "--runs" || text == "--input";
        if (option && i + 1 == count) throw BadInput(text + " lacks its value; " + USAGE);
        if (text == "--variant")
            words.variant = texts[++i];
        else if (text == "--input")
            words.input = texts[++i];
        else if (text == "--threads")
            words.threads = positive(text, texts[++i]);
        else if (text == "--runs")
            words.runs = positive(text, texts[++i]);
        else if (text.rfind("--", 0) == 0)
            throw BadInput("there is no option " + text + "; " + USAGE);
        else if (words.bundle.empty())
            words.bundle = text;
        else
            words.pictures.push_back(text);
    }
    if (words.bundle.empty()) throw BadInput(USAGE);
    return words;
}

// Whether recorded outputs are probabilities, or scores within 0 and 1, so that they need no softmax; as edgekit tells it.
bool are_shares(const Array& reference, std::int64_t samples) {
    constexpr double sum_of = 1e-3, sure = 0.5;
    const auto values = reference.doubles();
    const std::size_t size = values.size() / static_cast<std::size_t>(samples);
    bool sums = true;
    double most = 0;
    for (std::size_t begin = 0; begin < values.size(); begin += size) {
        double sum = 0;
        for (std::size_t i = begin; i < begin + size; ++i) {
            if (!std::isfinite(values[i]) || values[i] < -sum_of) return false;
            sum += values[i];
            most = std::max(most, values[i]);
        }
        sums = sums && std::abs(sum - 1) <= sum_of;
    }
    return (sums && size > 1) || (most <= 1 + sum_of && most > sure);
}

std::vector<double> softmax(std::vector<double> values) {
    const double most = *std::max_element(values.begin(), values.end());
    double sum = 0;
    for (auto& value : values) sum += value = std::exp(value - most);
    for (auto& value : values) value /= sum;
    return values;
}

void write_input(const std::string& path, const std::string& bytes) {
    std::ofstream stream(path, std::ios::binary);
    if (!stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush())
        throw BadInput(path + " cannot be written");
}

void label(Session& session, const Bundle& bundle, const std::string& path, const std::string& written, bool shares) {
    const auto begin = std::chrono::steady_clock::now();
    const auto input = network_input(path, bundle.preprocess);
    const double preparing = milliseconds_since(begin);
    const std::string bytes(reinterpret_cast<const char*>(input.data()), input.size() * sizeof(float));
    if (!written.empty()) write_input(written, bytes);
    Feed feed;
    for (std::int64_t i = 0; i < bundle.batch(); ++i) feed[bundle.inputs[0].name] += bytes;
    const auto start = std::chrono::steady_clock::now();
    auto values = session.outputs_of(feed, bundle.batch()).at(bundle.outputs[0].name);
    const double running = milliseconds_since(start);
    values.resize(values.size() / static_cast<std::size_t>(bundle.batch()));
    if (values.size() != bundle.labels.size())
        throw BadInput("the network has another number of outputs than manifest.json has labels");
    for (const double value : values)
        if (std::isnan(value)) throw BadInput("the network's output for " + path + " is not a number");
    if (!shares) values = softmax(values);
    std::vector<std::size_t> order(values.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
    std::printf("%s:", visible(path).c_str());
    for (std::size_t i = 0; i < std::min(TOP, order.size()); ++i)
        std::printf("%s %s %.4f", i ? "," : "", visible(bundle.labels[order[i]]).c_str(), values[order[i]]);
    std::printf("; %.2f ms in the network, %.2f ms to decode and resize\n", running, preparing);
}

int run(const Words& words) {
    const Bundle bundle = open_bundle(words.bundle, words.variant);
    if (!words.pictures.empty() && !bundle.takes_pictures)
        throw BadInput("the bundle records no preprocessing or labels, so it cannot be given pictures");
    const auto arrays = read_npz(bundle.golden);
    check_arrays(bundle, arrays);
    Session session(bundle, words.threads);
    std::printf("%s, %s (%s), ONNX Runtime %s, %d thread(s)\n", visible(bundle.name).c_str(), bundle.variant.c_str(),
                bundle.model.filename().c_str(), OrtGetApiBase()->GetVersionString(), words.threads);
    if (!golden_outputs_pass(session, bundle, arrays)) {
        std::printf("FAIL: this machine computes something else than the original model did; nothing is labelled\n");
        return 1;
    }
    time_runs(session, bundle, arrays, words.runs);
    const bool shares = are_shares(arrays.at("float64." + bundle.outputs[0].name), bundle.samples);
    for (const auto& picture : words.pictures) label(session, bundle, picture, words.input, shares);
    return 0;
}

}  // namespace

int main(int count, char** texts) {
    try {
        return run(words_of(count, texts));
    } catch (const BadInput& problem) {
        std::fprintf(stderr, "error: %s\n", problem.what());
    } catch (const Ort::Exception& problem) {
        std::fprintf(stderr, "error: ONNX Runtime refuses the network or its inputs: %s\n", problem.what());
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "error: %s\n", problem.what());
    }
    return 2;
}
