// A variant of a bundle in ONNX Runtime, on the CPU.
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "bundle.hpp"

class Session {
   public:
    Session(const Bundle& bundle, int threads) : bundle_(bundle), session_(nullptr) {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads);
        options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
        session_ = Ort::Session(environment_, bundle.model.c_str(), options);
        for (const auto& spec : bundle.inputs) input_names_.push_back(spec.name.c_str());
        for (const auto& spec : bundle.outputs) output_names_.push_back(spec.name.c_str());
        if (session_.GetInputCount() != input_names_.size())
            throw BadInput("the ONNX file has other inputs than manifest.json says");
        for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
            const auto described = session_.GetInputTypeInfo(i);
            const auto info = described.GetTensorTypeAndShapeInfo();
            const std::string name = session_.GetInputNameAllocated(i, allocator_).get();
            described_[name] = {info.GetElementType(), info.GetShape()};
        }
        for (const auto& spec : bundle.inputs)
            if (!described_.count(spec.name))
                throw BadInput("the ONNX file has no input " + spec.name + ", which manifest.json lists");
    }

    // Runs ``batch`` samples. The feed's bytes are read in place.
    std::vector<Ort::Value> run(Feed& feed, std::int64_t batch) {
        std::vector<Ort::Value> inputs;
        for (const auto& spec : bundle_.inputs) {
            auto [type, shape] = described_.at(spec.name);
            for (auto& size : shape)
                if (size < 0) size = batch;
            auto& bytes = feed.at(spec.name);
            std::size_t expected = size_of(type);
            for (const auto size : shape) expected *= static_cast<std::size_t>(size);
            if (bytes.size() != expected)
                throw BadInput("the network takes " + std::to_string(expected) + " bytes as " + spec.name + ", and was given " +
                               std::to_string(bytes.size()) + "; manifest.json or golden.npz is of another network");
            inputs.push_back(Ort::Value::CreateTensor(memory_, bytes.data(), bytes.size(), shape.data(), shape.size(), type));
        }
        return session_.Run(Ort::RunOptions{nullptr}, input_names_.data(), inputs.data(), inputs.size(), output_names_.data(),
                            output_names_.size());
    }

    Outputs outputs_of(Feed& feed, std::int64_t batch) {
        const auto values = run(feed, batch);
        Outputs outputs;
        for (std::size_t i = 0; i < values.size(); ++i) outputs[bundle_.outputs[i].name] = as_doubles(values[i]);
        return outputs;
    }

   private:
    struct Described {
        ONNXTensorElementDataType type;
        std::vector<std::int64_t> shape;
    };

    static std::size_t size_of(ONNXTensorElementDataType type) {
        switch (type) {
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
                return 8;
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
                return 4;
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
                return 2;
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
                return 1;
            default:
                throw BadInput("the network has an input of a type that this program does not give it");
        }
    }

    template <typename Number>
    static std::vector<double> copied(const Ort::Value& value) {
        const auto count = value.GetTensorTypeAndShapeInfo().GetElementCount();
        const auto* data = value.GetTensorData<Number>();
        return {data, data + count};
    }

    static std::vector<double> as_doubles(const Ort::Value& value) {
        switch (value.GetTensorTypeAndShapeInfo().GetElementType()) {
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
                return copied<float>(value);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
                return copied<double>(value);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
                return copied<std::int64_t>(value);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
                return copied<std::int32_t>(value);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
                return copied<std::int8_t>(value);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
                return copied<std::uint8_t>(value);
            case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
                return copied<bool>(value);
            default:
                throw BadInput("the network has an output of a type that this program does not read, like float16");
        }
    }

    const Bundle& bundle_;
    Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "edgekit-bundle"};
    Ort::AllocatorWithDefaultOptions allocator_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    Ort::Session session_;
    std::vector<const char*> input_names_, output_names_;
    std::map<std::string, Described> described_;
};
