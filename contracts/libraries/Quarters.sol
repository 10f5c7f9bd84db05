// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Quarters: dates on chain are no finer than a quarter of a year
/// @notice A form's validity is shared by all its patients; a finer date would tell one patient's form from another's.
library Quarters {
    /// @notice Whether `timestamp` (Unix seconds) is midnight UTC of 1 January, April, July or October.
    function isBoundary(uint256 timestamp) internal pure returns (bool) {
        if (timestamp % 1 days != 0) return false;
        // Days to civil date in years that begin on 1 March (H. Hinnant, "chrono-compatible low-level date algorithms")
        uint256 z = timestamp / 1 days + 719_468;
        uint256 dayOfEra = z % 146_097;
        uint256 yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365;
        uint256 dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
        // 1 April, 1 July, 1 October and 1 January, counted from 1 March
        return dayOfYear == 31 || dayOfYear == 122 || dayOfYear == 214 || dayOfYear == 306;
    }
}
