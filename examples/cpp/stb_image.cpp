// The one place where stb_image, which is a header alone, is compiled.
#define STB_IMAGE_IMPLEMENTATION
#include "stb_image.h"
