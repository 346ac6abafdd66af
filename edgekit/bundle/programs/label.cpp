// Labels a picture: c++ -std=c++17 -I/usr/include/onnxruntime label.cpp -lonnxruntime -o label && ./label photo.png
// Needs ONNX Runtime for C++, nlohmann/json.hpp and stb/stb_image.h (Debian: nlohmann-json3-dev, libstb-dev).
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

int main(int count, char** words) try {
    const char* path = count > 1 ? words[1] : "$PICTURE";
    int width = 0, height = 0, channels = 0;
    unsigned char* decoded = stbi_load(path, &width, &height, &channels, 4);  // RGBA; a camera's orientation is not applied
    if (decoded == nullptr) throw std::runtime_error(std::string(path) + ": " + stbi_failure_reason());
    std::vector<std::uint8_t> pixels;
    for (std::int64_t place = 0; place < std::int64_t{4} * width * height; place += 4)
        for (int channel = 0; channel < 3; ++channel)  // transparency onto black
            pixels.push_back(static_cast<std::uint8_t>((decoded[place + channel] * decoded[place + 3] + 127) / 255));
    stbi_image_free(decoded);

    const std::int64_t batch = "$BATCH";
    const std::array<std::int64_t, 4> shape{batch, height, width, 3};
    const std::size_t size = pixels.size();
    pixels.reserve(batch * size);
    for (std::int64_t copies = 1; copies < batch; ++copies) pixels.insert(pixels.end(), pixels.begin(), pixels.begin() + size);

    Ort::Env environment;
    Ort::Session session(environment, ORT_TSTR("$MODEL"), Ort::SessionOptions{});
    const char *input = "$INPUT", *output = "$OUTPUT";
    const Ort::Value picture = Ort::Value::CreateTensor<std::uint8_t>(
        Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU), pixels.data(), pixels.size(), shape.data(), shape.size());
    std::vector<Ort::Value> outputs = session.Run(Ort::RunOptions{nullptr}, &input, &picture, 1, &output, 1);

    const nlohmann::json labels = nlohmann::json::parse(std::ifstream("manifest.json"))["labels"];
    const float* scores = outputs[0].GetTensorData<float>();
    std::cout << labels[std::max_element(scores, scores + labels.size()) - scores].get<std::string>() << "\n";
} catch (const std::exception& problem) {
    std::cerr << problem.what() << "\n";
    return 2;
}
