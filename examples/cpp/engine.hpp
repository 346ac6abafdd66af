// A bundle's TensorRT engine, the file of ``edgekit build BUNDLE --output FILE``. It was compiled against TensorRT's headers and
// has not run: there was no library to link.
#pragma once

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include "bundle.hpp"

inline void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess) throw BadInput(std::string(what) + ": " + cudaGetErrorString(code));
}

// Bytes on the GPU, freed with this object.
class DeviceMemory {
   public:
    explicit DeviceMemory(std::size_t bytes) { check(cudaMalloc(&data_, bytes), "the GPU's memory is not enough"); }
    ~DeviceMemory() { cudaFree(data_); }
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    void* data() const { return data_; }

   private:
    void* data_ = nullptr;
};

class Engine {
   public:
    Engine(const Bundle& bundle, const std::filesystem::path& file) : bundle_(bundle) {
        const std::string plan = read_file(file);
        check(cudaStreamCreate(&stream_), "no GPU can be used");
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (runtime_) engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (engine_) context_.reset(engine_->createExecutionContext());
        if (!context_) throw BadInput(file.string() + " does not load here; build it again on this machine with edgekit build");
        for (const auto* specs : {&bundle.inputs, &bundle.outputs})
            for (const auto& spec : *specs)
                if (engine_->getTensorIOMode(spec.name.c_str()) == nvinfer1::TensorIOMode::kNONE)
                    throw BadInput("the engine has no tensor " + spec.name +
                                   ", which manifest.json lists; it is another bundle's");
    }
    ~Engine() { cudaStreamDestroy(stream_); }
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    void run(Feed& feed, std::int64_t batch) {
        for (const auto& spec : bundle_.inputs) {
            const char* name = spec.name.c_str();
            auto shape = engine_->getTensorShape(name);
            for (int axis = 0; axis < shape.nbDims; ++axis)
                if (shape.d[axis] < 0) shape.d[axis] = batch;
            if (!context_->setInputShape(name, shape))
                throw BadInput("the engine was not built for batches of " + std::to_string(batch) +
                               "; see edgekit build --batch");
            const auto& bytes = feed.at(spec.name);
            if (bytes.size() != bytes_of(name))
                throw BadInput("manifest.json or golden.npz is of another network than the engine");
            void* place = memory_of(spec.name, bytes.size());
            check(cudaMemcpyAsync(place, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream_), "copying to the GPU");
        }
        for (const auto& spec : bundle_.outputs) memory_of(spec.name, bytes_of(spec.name.c_str()));
        if (!context_->enqueueV3(stream_)) throw BadInput("TensorRT refuses to run the engine");
        check(cudaStreamSynchronize(stream_), "running the engine");
    }

    Outputs outputs_of(Feed& feed, std::int64_t batch) {
        run(feed, batch);
        Outputs outputs;
        for (const auto& spec : bundle_.outputs) {
            std::vector<float> values(bytes_of(spec.name.c_str()) / sizeof(float));
            check(cudaMemcpy(values.data(), memory_.at(spec.name)->data(), values.size() * sizeof(float), cudaMemcpyDeviceToHost),
                  "copying from the GPU");
            outputs[spec.name].assign(values.begin(), values.end());
        }
        return outputs;
    }

   private:
    struct Logger : nvinfer1::ILogger {
        void log(Severity severity, const char* message) noexcept override {
            if (severity <= Severity::kERROR) std::fprintf(stderr, "TensorRT: %s\n", message);
        }
    };

    std::size_t bytes_of(const char* name) const {
        const auto shape = context_->getTensorShape(name);
        if (engine_->getTensorDataType(name) != nvinfer1::DataType::kFLOAT)
            throw BadInput(std::string("the engine's tensor ") + name + " is not float32, which is all that this program reads");
        std::size_t bytes = sizeof(float);
        for (int axis = 0; axis < shape.nbDims; ++axis) bytes *= static_cast<std::size_t>(shape.d[axis]);
        return bytes;
    }

    // The tensor's memory, at least so large, told to the context.
    void* memory_of(const std::string& name, std::size_t bytes) {
        auto& size = sizes_[name];
        if (size < bytes) {
            memory_[name] = std::make_unique<DeviceMemory>(bytes);
            size = bytes;
        }
        context_->setTensorAddress(name.c_str(), memory_.at(name)->data());
        return memory_.at(name)->data();
    }

    const Bundle& bundle_;
    Logger logger_;
    cudaStream_t stream_ = nullptr;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::map<std::string, std::unique_ptr<DeviceMemory>> memory_;
    std::map<std::string, std::size_t> sizes_;
};
