// bench_truth MODEL INPUT THREADS SECONDS DIMENSION...
//
// Times a network of one float32 input in ONNX Runtime's C API, as little as a program can do: a tensor over the input's memory, a
// run, the outputs given back. INPUT is the file of its raw values. Prints the median in milliseconds, and the number of calls.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

#include <onnxruntime_c_api.h>

namespace {

constexpr double WARM_SECONDS = 0.1;
const OrtApi* const api = OrtGetApiBase()->GetApi(ORT_API_VERSION);

void check(OrtStatus* status) {
    if (status == nullptr) return;
    std::fprintf(stderr, "error: %s\n", api->GetErrorMessage(status));
    std::exit(2);
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

struct Network {
    OrtSession* session = nullptr;
    OrtMemoryInfo* memory = nullptr;
    std::vector<const char*> inputs, outputs;
    std::vector<char> values;
    std::vector<std::int64_t> shape;

    void run() {
        OrtValue* input = nullptr;
        std::vector<OrtValue*> results(outputs.size(), nullptr);
        check(api->CreateTensorWithDataAsOrtValue(memory, values.data(), values.size(), shape.data(), shape.size(),
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
        check(api->Run(session, nullptr, inputs.data(), &input, 1, outputs.data(), outputs.size(), results.data()));
        for (OrtValue* result : results) api->ReleaseValue(result);
        api->ReleaseValue(input);
    }
};

Network opened(OrtEnv* environment, const char* model, int threads) {
    Network network;
    OrtSessionOptions* options = nullptr;
    OrtAllocator* allocator = nullptr;
    std::size_t inputs = 0, outputs = 0;
    check(api->CreateSessionOptions(&options));
    check(api->SetIntraOpNumThreads(options, threads));
    check(api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
    check(api->CreateSession(environment, model, options, &network.session));
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &network.memory));
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    check(api->SessionGetInputCount(network.session, &inputs));
    check(api->SessionGetOutputCount(network.session, &outputs));
    if (inputs != 1) std::exit(2);
    network.inputs.resize(inputs);
    network.outputs.resize(outputs);
    check(api->SessionGetInputName(network.session, 0, allocator, const_cast<char**>(&network.inputs[0])));
    for (std::size_t i = 0; i < outputs; ++i)
        check(api->SessionGetOutputName(network.session, i, allocator, const_cast<char**>(&network.outputs[i])));
    return network;
}

}  // namespace

int main(int count, char** words) {
    if (count < 6) return 2;
    OrtEnv* environment = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "bench_truth", &environment));
    Network network = opened(environment, words[1], std::atoi(words[3]));
    std::ifstream file(words[2], std::ios::binary);
    network.values.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    for (int i = 5; i < count; ++i) network.shape.push_back(std::atoll(words[i]));

    const double seconds = std::atof(words[4]);
    const auto begin = std::chrono::steady_clock::now();
    while (seconds_since(begin) < WARM_SECONDS) network.run();
    std::vector<double> samples;
    const auto start = std::chrono::steady_clock::now();
    while (seconds_since(start) < seconds) {
        const auto before = std::chrono::steady_clock::now();
        network.run();
        samples.push_back(1e3 * seconds_since(before));
    }
    std::nth_element(samples.begin(), samples.begin() + samples.size() / 2, samples.end());
    std::printf("%.6f %zu\n", samples[samples.size() / 2], samples.size());
    return 0;
}
