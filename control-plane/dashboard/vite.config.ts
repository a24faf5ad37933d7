// How the dashboard is built: hashed files under /dashboard/assets, nothing inlined (the page's CSP is 'self' only), same bytes from the same sources.
import { defineConfig } from "vite";

export default defineConfig({
  base: "/dashboard/",
  publicDir: "public",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "dist",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    sourcemap: false,
  },
  worker: { format: "es" },
  // `npm run dev` beside a running `weft dashboard --port 8090`: pages from here, the API from there.
  server: {
    proxy: Object.fromEntries(
      ["/weft", "/api", "/apis", "/version"].map((path) => [path, process.env.WEFT_API ?? "http://127.0.0.1:8090"]),
    ),
  },
});
