// swift-tools-version:5.9
import PackageDescription

let package = Package(
    name: "EdgeqEncoder",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "EdgeqEncoder", targets: ["EdgeqEncoder"])],
    targets: [
        .target(name: "EdgeqEncoder"),
        .testTarget(name: "EdgeqEncoderTests", dependencies: ["EdgeqEncoder"]),
    ]
)
