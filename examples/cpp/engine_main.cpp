// edgekit-engine BUNDLE ENGINE
//
// Checks the golden outputs of a bundle in a TensorRT engine, and times it. Exit codes as those of edgekit-bundle.
#include <cstdio>

#include "bundle.hpp"
#include "check.hpp"
#include "engine.hpp"

namespace {

constexpr int RUNS = 200;

int run(const std::string& root, const std::string& file) {
    const Bundle bundle = open_bundle(root, "");
    const auto arrays = read_npz(bundle.golden);
    check_arrays(bundle, arrays);
    Engine engine(bundle, file);
    std::printf("%s, TensorRT %d.%d\n", visible(bundle.name).c_str(), NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR);
    if (!golden_outputs_pass(engine, bundle, arrays)) return 1;
    time_runs(engine, bundle, arrays, RUNS);
    return 0;
}

}  // namespace

int main(int count, char** texts) {
    try {
        if (count != 3) throw BadInput("usage: edgekit-engine BUNDLE ENGINE");
        return run(texts[1], texts[2]);
    } catch (const std::exception& problem) {
        std::fprintf(stderr, "error: %s\n", problem.what());
    }
    return 2;
}
