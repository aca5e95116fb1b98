// Texts that tell people what the core can do.
#pragma once

/// A sentence that only the build asks for, to write types and docs from it (bindings/tables.cpp). The
/// modules that users download are built without.
#ifdef LEGO_WITHOUT_HELP
#define LEGO_HELP(text) ""
#else
#define LEGO_HELP(text) text
#endif
