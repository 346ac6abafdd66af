// From a picture file to the network's input, to the last bit what edgekit.preprocess makes of the same pixels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "stb_image.h"

// One channel after another, each height x width.
struct Picture {
    int width = 0, height = 0;
    std::vector<std::vector<std::uint8_t>> channels;
};

namespace detail {

// The orientation that a camera left in a JPEG file's EXIF data, 1 to 8; 1 (upright) where there is none.
inline int orientation(const std::string& file) {
    const auto byte = [&](std::size_t place) { return place < file.size() ? static_cast<unsigned char>(file[place]) : 0u; };
    if (byte(0) != 0xFF || byte(1) != 0xD8) return 1;
    for (std::size_t marker = 2; byte(marker) == 0xFF && byte(marker + 1) != 0xDA;) {
        const std::size_t length = byte(marker + 2) << 8 | byte(marker + 3), head = marker + 10;
        if (byte(marker + 1) == 0xE1 && file.compare(marker + 4, 4, "Exif") == 0) {
            const bool little = byte(head) == 'I';
            const auto number = [&](std::size_t place, int bytes) {
                std::size_t value = 0;
                for (int i = 0; i < bytes; ++i) value |= std::size_t{byte(place + i)} << 8 * (little ? i : bytes - 1 - i);
                return value;
            };
            const std::size_t table = head + number(head + 4, 4);
            for (std::size_t row = 0; row < number(table, 2); ++row) {
                const std::size_t entry = table + 2 + 12 * row, value = number(entry + 8, 2);
                if (number(entry, 2) == 0x0112) return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
            }
        }
        if (length < 2) break;
        marker += 2 + length;
    }
    return 1;
}

// A channel turned upright: 2 to 4 are flips, 5 to 8 exchange the axes.
inline std::vector<std::uint8_t> upright(const std::vector<std::uint8_t>& pixels, int width, int height, int turn) {
    std::vector<std::uint8_t> out(pixels.size());
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const bool right = turn == 2 || turn == 3 || turn == 7 || turn == 8,
                       down = turn == 3 || turn == 4 || turn == 6 || turn == 7;
            const int across = right ? width - 1 - x : x, below = down ? height - 1 - y : y;
            const int place = turn >= 5 ? across * height + below : below * width + across;
            out[place] = pixels[y * width + x];
        }
    }
    return out;
}

// The colour on black, rounded as Pillow's alpha_composite rounds it.
inline unsigned on_black(unsigned colour, unsigned alpha) {
    const unsigned sum = colour * alpha * 128 + (0x80u << 7);
    return ((sum >> 8) + sum) >> 8 >> 7;
}

constexpr int BITS = 22;  // of the fixed point that Pillow resizes in (src/libImaging/Resample.c)

struct Window {
    int first = 0;
    std::vector<int> weights;
};

inline std::vector<Window> windows(int from, int to) {
    const double scale = static_cast<double>(from) / to;
    const double support = std::max(scale, 1.0);  // of the triangle filter; it widens where the picture shrinks
    std::vector<Window> found(to);
    for (int place = 0; place < to; ++place) {
        const double centre = (place + 0.5) * scale;
        const int first = std::max(0, static_cast<int>(centre - support + 0.5));
        const int last = std::min(from, static_cast<int>(centre + support + 0.5));
        std::vector<double> weights;
        double sum = 0;
        for (int i = first; i < last; ++i) {
            weights.push_back(std::max(0.0, 1 - std::abs((i - centre + 0.5) * (1 / support))));
            sum += weights.back();
        }
        found[place].first = first;
        for (double weight : weights) found[place].weights.push_back(static_cast<int>(0.5 + weight / sum * (1 << BITS)));
    }
    return found;
}

// lines x from -> lines x to; ``stride`` between two pixels of a line, ``step`` between two lines, the same in the output.
inline std::vector<std::uint8_t> resized_along(const std::vector<std::uint8_t>& in, int lines, int from, int to, bool rows) {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(lines) * to);
    const auto all = windows(from, to);
    for (int place = 0; place < to; ++place) {
        for (int line = 0; line < lines; ++line) {
            int sum = 1 << (BITS - 1);
            for (std::size_t i = 0; i < all[place].weights.size(); ++i) {
                const int at = all[place].first + static_cast<int>(i);
                sum += all[place].weights[i] *
                       in[rows ? static_cast<std::size_t>(line) * from + at : static_cast<std::size_t>(at) * lines + line];
            }
            out[rows ? static_cast<std::size_t>(line) * to + place : static_cast<std::size_t>(place) * lines + line] =
                static_cast<std::uint8_t>(std::min(255, sum >> BITS));
        }
    }
    return out;
}

}  // namespace detail

// Decodes a file (what stb_image reads: PNG, JPEG, BMP, GIF, ...): upright, transparency on black, grey or RGB of 8 bits.
inline Picture decoded(const std::filesystem::path& path, bool grey) {
    const std::string file = read_file(path);
    const auto* bytes = reinterpret_cast<const stbi_uc*>(file.data());
    const int size = static_cast<int>(file.size());
    if (stbi_is_16_bit_from_memory(bytes, size))
        throw BadInput(path.string() + " has more than 8 bits a channel; use edgekit predict");
    Picture picture;
    const std::unique_ptr<stbi_uc, void (*)(void*)> pixels(
        stbi_load_from_memory(bytes, size, &picture.width, &picture.height, nullptr, 4), stbi_image_free);
    if (!pixels) throw BadInput(path.string() + " cannot be decoded (" + stbi_failure_reason() + "); give a PNG or JPEG file");
    const std::size_t count = static_cast<std::size_t>(picture.width) * picture.height;
    picture.channels.assign(grey ? 1 : 3, std::vector<std::uint8_t>(count));
    for (std::size_t i = 0; i < count; ++i) {
        unsigned colour[3];
        for (int channel = 0; channel < 3; ++channel)
            colour[channel] = detail::on_black(pixels.get()[4 * i + channel], pixels.get()[4 * i + 3]);
        if (grey) colour[0] = (colour[0] * 19595 + colour[1] * 38470 + colour[2] * 7471 + 0x8000) >> 16;  // Pillow's "L"
        for (std::size_t channel = 0; channel < picture.channels.size(); ++channel)
            picture.channels[channel][i] = static_cast<std::uint8_t>(colour[channel]);
    }
    if (const int turn = detail::orientation(file); turn > 1) {
        for (auto& channel : picture.channels) channel = detail::upright(channel, picture.width, picture.height, turn);
        if (turn >= 5) std::swap(picture.width, picture.height);
    }
    return picture;
}

// Pillow's antialiased bilinear filter. Very tall pictures lose their rows first, as in Pillow 13; before: one grey level apart.
inline Picture resized(const Picture& picture, int width, int height) {
    Picture out{width, height, {}};
    const bool tall = picture.height - height > 2 * std::max(0, picture.width - width);
    for (auto pixels : picture.channels) {
        int wide = picture.width, high = picture.height;
        for (const bool rows : {!tall, tall}) {
            const int from = rows ? wide : high, to = rows ? width : height;
            if (from != to) pixels = detail::resized_along(pixels, rows ? high : wide, from, to, rows);
            (rows ? wide : high) = to;
        }
        out.channels.push_back(std::move(pixels));
    }
    return out;
}

// float32 C x H x W.
inline std::vector<float> normalised(const Picture& picture, const Preprocess& how) {
    std::vector<float> input;
    for (std::size_t channel = 0; channel < picture.channels.size(); ++channel)
        for (const std::uint8_t pixel : picture.channels[channel])
            input.push_back((pixel / 255.0f - how.mean[channel]) / how.std[channel]);
    return input;
}

inline std::vector<float> network_input(const std::filesystem::path& path, const Preprocess& how) {
    return normalised(resized(decoded(path, how.grey), how.width, how.height), how);
}
