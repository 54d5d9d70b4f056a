// SPDX-License-Identifier: Apache-2.0
// Contracts for the tests of contract accounts; `node contracts.mjs` compiles them into contracts.json.
pragma solidity ^0.8.30;

/// An account whose owner's key speaks for it (ERC-1271).
contract Account {
    address public owner;

    constructor(address first) {
        owner = first;
    }

    function give(address next) external {
        require(msg.sender == owner);
        owner = next;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return 0xffffffff;
        address signer = ecrecover(hash, uint8(signature[64]), bytes32(signature[:32]), bytes32(signature[32:64]));
        return signer != address(0) && signer == owner ? bytes4(0x1626ba7e) : bytes4(0xffffffff);
    }
}

/// Makes accounts at addresses known before.
contract Maker {
    function make(address owner, bytes32 salt) external returns (address) {
        return address(new Account{salt: salt}(owner));
    }

    function where(address owner, bytes32 salt) external view returns (address) {
        bytes32 code = keccak256(abi.encodePacked(type(Account).creationCode, abi.encode(owner)));
        return address(uint160(uint256(keccak256(abi.encodePacked(bytes1(0xff), address(this), salt, code)))));
    }
}

/// Never answers.
contract Burner {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        uint256 n;
        while (true) n++;
        return 0x1626ba7e;
    }
}

/// Answers too much, and yes at its beginning.
contract Shouter {
    fallback() external {
        assembly {
            mstore(0, 0x1626ba7e00000000000000000000000000000000000000000000000000000000)
            return(0, 100000)
        }
    }
}
